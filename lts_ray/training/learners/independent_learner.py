"""Granularities with FFN blocks of their own learn; what they share learns from all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_checkpoint
from lts_ray.models.matformer.independent import IndependentModel
from lts_ray.training.learners.head_loss import head_loss
from lts_ray.training.learners.learner import Evaluation, Losses, text_evaluation
from lts_ray.training.learners.objective import Objective
from lts_ray.training.learners.teacher import Teacher, only


@dataclass(frozen=True, kw_only=True)
class IndependentLearner:
    """Each granularity has a pass of its own: there are no bands of weights to read once for all of them."""

    model: IndependentModel
    objective: Objective
    teacher: Teacher | None = None

    @property
    def context_length(self) -> int:
        return self.model.member(self.model.names[-1]).config.context_length

    def losses(self, blocks: Tensor, step: int) -> Iterator[Losses]:
        tokens, targets = blocks[:, :-1], blocks[:, 1:].flatten()
        shares, largest = self.objective.shares(step), self.model.names[-1]
        teaching = None if self.teacher is None else self.teacher.teach(tokens, [name != largest for name in shares])
        for index, (name, share) in enumerate(shares.items()):
            member = self.model.member(name)
            hidden = member.hidden(tokens, submodel=member.config.universal).flatten(0, 1)[None]
            total, losses = head_loss(hidden, member.output_weight, targets, [share], only(teaching, index))
            yield total, {name: losses[0]}

    def evaluate(self, blocks: Tensor) -> Evaluation:
        members = {name: self.model.member(name) for name in self.model.names}
        return text_evaluation(
            {name: validation_loss(member, blocks, member.config.universal) for name, member in members.items()}
        )

    def save(self, folder: Path, *, dtype: torch.dtype, evaluation: Evaluation | None = None) -> list[Path]:
        """A plain checkpoint for each granularity, in a folder of its name."""
        for name in self.model.names:
            loss = None if evaluation is None else {"XL": evaluation["validation_loss"][name]}
            save_checkpoint(self.model.member(name), folder / name, dtype=dtype, validation_loss=loss)
        return [folder / name for name in self.model.names]

    def load(self, folder: Path) -> IndependentLearner:
        members = {name: load_checkpoint(folder / name).model for name in self.model.names}
        return replace(self, model=IndependentModel(members).train())
