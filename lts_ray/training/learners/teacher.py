"""The model that the smaller granularities learn from, beside the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, read_config
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.training.learners.head_loss import Teaching


def check_teacher(folder: Path, *, vocab_size: int | None, sequence_length: int) -> None:
    """Raises LtsRayError for one that cannot teach. Reads no weights. vocab_size: None where not yet known."""
    config, _ = read_config(folder)
    if vocab_size is not None and config.vocab_size != vocab_size:
        raise LtsRayError(
            f"the teacher {folder} has {config.vocab_size} words and the model {vocab_size}: "
            "a teacher must have the model's vocabulary"
        )
    if config.context_length < sequence_length:
        raise LtsRayError(
            f"training.sequence_length {sequence_length} is longer than the teacher's context, {config.context_length}"
        )


@dataclass(frozen=True)
class Teacher:
    """A universal model, run at its full width; it does not learn."""

    model: MatFormer
    portion: float
    """How much the smaller granularities heed it."""

    @classmethod
    def read(
        cls, folder: Path, *, portion: float, vocab_size: int, sequence_length: int, device: torch.device
    ) -> Teacher:
        check_teacher(folder, vocab_size=vocab_size, sequence_length=sequence_length)
        return cls(load_checkpoint(folder, device=str(device)).model.requires_grad_(False), portion)

    def teach(self, tokens: Tensor, pupils: Sequence[bool]) -> Teaching | None:
        """What one forward of the teacher gives; None, without a forward, where no pupil learns from it.

        tokens: [B, T]. pupils: which granularities learn from it: not the universal one, which has only the text.
        """
        portions = [self.portion if pupil else 0.0 for pupil in pupils]
        if not any(portions):
            return None
        with torch.no_grad():
            hidden = self.model.hidden(tokens, submodel=self.model.config.universal).flatten(0, 1)
        return Teaching(hidden=hidden, head=self.model.output_weight, portions=portions)


def only(teaching: Teaching | None, index: int) -> Teaching | None:
    """For a pass of one granularity, of which `index` says the place among the portions."""
    return None if teaching is None else replace(teaching, portions=teaching.portions[index : index + 1])
