"""What the training loop knows of a model: its losses on a batch, how it is evaluated, and how it is kept.

The seam between the loop and the kinds of models. Losses go by name, and a kind has the names that it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Losses = tuple[Tensor, dict[str, Tensor]]
"""What to minimise, and each loss in it (nats, detached)."""


Trained = Literal["all", "ffn"]
"""Which parameters learn."""


class Learner(Protocol):
    @property
    def model(self) -> nn.Module:
        """In training mode. Which parameters get gradients depends on the step alone, so that workers can average."""
        ...

    @property
    def context_length(self) -> int:
        """The longest sequence to train on."""
        ...

    def losses(self, blocks: Tensor, step: int) -> Iterator[Losses]:
        """The losses of one pass after another, each to be propagated back before the next pass is asked for.

        They add up to those of the step, name by name, and so do their gradients. blocks: [B, T + 1].
        """
        ...

    def evaluate(self, blocks: Tensor) -> dict[str, float]:
        """Nats per token. blocks: [N, T + 1]."""
        ...

    def save(self, folder: Path, *, dtype: torch.dtype, validation_loss: Mapping[str, float] | None = None) -> None:
        """Write the checkpoint. validation_loss: as `evaluate` gave it."""
        ...

    def load(self, folder: Path) -> Learner:
        """A learner of the model that `save` wrote; it learns by the same losses."""
        ...

    def checkpoints(self, folder: Path) -> list[Path]:
        """The folders that `save` to `folder` makes, each of a model of its own."""
        ...


def freeze(model: nn.Module, trained: Trained) -> None:
    """In place: with `ffn`, only the parameters of the nested blocks, the modules named `mlp`, get gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained == "all" or "mlp" in name.split("."))
