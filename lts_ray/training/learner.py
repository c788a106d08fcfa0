"""What the training loop knows of a model: its losses on a batch, how it is evaluated, and how it is kept.

The seam between the loop and the kinds of models. Losses go by name, and a kind has the names that it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


class Learner(Protocol):
    @property
    def model(self) -> nn.Module:
        """In training mode; every parameter gets a gradient from every batch, so that workers can average them."""
        ...

    @property
    def context_length(self) -> int:
        """The longest sequence to train on."""
        ...

    def losses(self, blocks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What to minimise, and each loss in it (nats, detached). blocks: [B, T + 1]."""
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
