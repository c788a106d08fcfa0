"""What the training loop knows of a model and of what it learns from; it knows no tokens and no images.

The seam between the loop and the kinds of models. Losses go by name, and a kind has the names that it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

Losses = tuple[Tensor, dict[str, Tensor]]
"""What to minimise, and each loss in it (nats, detached)."""
Evaluation = Mapping[str, Mapping[str, float]]
"""What a record says of held-out data: by the name of a measure, then by that of a loss."""
Trained = Literal["all", "ffn"]
"""Which parameters learn."""
Batch = TypeVar("Batch")
Batch_contra = TypeVar("Batch_contra", contravariant=True)
Batch_co = TypeVar("Batch_co", covariant=True)


class Learner(Protocol[Batch_contra]):
    @property
    def model(self) -> nn.Module:
        """In training mode. Which parameters get gradients depends on the step alone, so that workers can average."""
        ...

    def losses(self, batch: Batch_contra, step: int) -> Iterator[Losses]:
        """The losses of one pass after another, each to be propagated back before the next pass is asked for.

        They add up to those of the step, name by name, and so do their gradients.
        """
        ...

    def evaluate(self, held_out: Batch_contra) -> Evaluation: ...

    def save(self, folder: Path, *, dtype: torch.dtype, evaluation: Evaluation | None = None) -> list[Path]:
        """Write the checkpoint; returns the folders that make it up, each of a model of its own.

        evaluation: as `evaluate` gave it.
        """
        ...

    def load(self, folder: Path) -> Learner[Batch_contra]:
        """A learner of the model that `save` wrote; it learns by the same losses."""
        ...


class TextLearner(Learner[Tensor], Protocol):
    """Of language models: batches are blocks of tokens, [B, T + 1], and evaluation is in nats per token."""

    @property
    def context_length(self) -> int:
        """The longest sequence to train on."""
        ...


class Lessons(Protocol[Batch_co]):
    """What a run learns from, on the device that it learns on."""

    @property
    def unit(self) -> str:
        """What the records' speed counts, e.g. tokens."""
        ...

    @property
    def units(self) -> int:
        """In a step of all workers."""
        ...

    def batch(self, step: int, *, rank: int, workers: int) -> Batch_co:
        """Worker `rank`'s part of a step's batch: a function of the seed and the step, so that runs resume."""
        ...

    def held_out(self, *, final: bool) -> Batch_co:
        """What to evaluate on, while training and at its end."""
        ...

    def save(self, checkpoint: Path) -> None:
        """Write what a checkpoint needs beside its model: a tokenizer."""
        ...


def freeze(model: nn.Module, trained: Trained) -> None:
    """In place: with `ffn`, only the parameters of the nested blocks, the modules named `mlp`, get gradients."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained == "all" or "mlp" in name.split("."))


def text_evaluation(losses: Mapping[str, float]) -> Evaluation:
    """losses: in nats per token, by name."""
    return {"validation_loss": {name: round(loss, 5) for name, loss in losses.items()}}
