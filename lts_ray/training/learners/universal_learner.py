"""A universal model learns: its granularities jointly, or one of them a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.training.learners.head_loss import Teaching, head_loss
from lts_ray.training.learners.learner import Evaluation, Losses, text_evaluation
from lts_ray.training.learners.objective import Objective
from lts_ray.training.learners.teacher import Teacher, only

Passes = Literal["mixed", "separate"]
PASS_TOKENS = 4096
"""Rows of hidden states in a mixed pass on a CPU, unless one sequence has more: no more memory than a plain step, and
faster."""


@dataclass(frozen=True, kw_only=True)
class UniversalLearner:
    """Where more nests than the FFN, granularities have no layer in common to share a pass for: each gets its own."""

    model: MatFormer
    objective: Objective
    passes: Passes = "mixed"
    """All granularities of a step as rows of one mixed-width batch, or a pass for each."""
    teacher: Teacher | None = None
    sequences: int | None = None
    """Of a pass; None: all in a pass of one granularity, `PASS_TOKENS` in a mixed one."""
    by_compiler: bool = False
    """Whether torch compiles the layers and the loss."""

    @property
    def context_length(self) -> int:
        return self.model.config.context_length

    def losses(self, blocks: Tensor, step: int) -> Iterator[Losses]:
        shares = self.objective.shares(step)
        apart = self.passes == "separate" or not self.model.config.nests_ffn_alone
        groups = [{name: share} for name, share in shares.items()] if apart else [shares]
        usual = len(blocks) if apart else max(1, PASS_TOKENS // (len(shares) * (blocks.shape[1] - 1)))
        for part in torch.split(blocks, self.sequences or usual):
            portion, teaching = len(part) / len(blocks), self._teaching(part, shares)
            for index, group in enumerate(groups):
                total, losses = self._pass(part, group, only(teaching, index) if apart else teaching)
                yield total * portion, {name: loss * portion for name, loss in losses.items()}

    def _teaching(self, blocks: Tensor, names: Iterable[str]) -> Teaching | None:
        trained, universal = self.model.config.trained, self.model.config.universal
        if self.teacher is None:
            return None
        return self.teacher.teach(blocks[:, :-1], [trained[name] != universal for name in names])

    def _pass(self, blocks: Tensor, shares: Mapping[str, float], teaching: Teaching | None) -> Losses:
        """All of `shares` in one forward pass."""
        tokens, targets = blocks[:, :-1], blocks[:, 1:].flatten()
        submodels = [self.model.config.trained[name] for name in shares]
        hidden = self.model.fan_out(tokens, submodels, by_compiler=self.by_compiler)
        hidden = hidden.view(len(submodels), len(targets), -1)
        head = self.model.output_weight[:, : hidden.shape[-1]]
        total, losses = head_loss(hidden, head, targets, list(shares.values()), teaching, by_compiler=self.by_compiler)
        return total, dict(zip(shares, losses, strict=True))

    def evaluate(self, blocks: Tensor) -> Evaluation:
        trained = self.model.config.trained
        return text_evaluation(
            {name: validation_loss(self.model, blocks, submodel) for name, submodel in trained.items()}
        )

    def save(self, folder: Path, *, dtype: torch.dtype, evaluation: Evaluation | None = None) -> list[Path]:
        losses = None if evaluation is None else evaluation["validation_loss"]
        save_checkpoint(self.model, folder, dtype=dtype, validation_loss=losses)
        return [folder]

    def load(self, folder: Path) -> UniversalLearner:
        return replace(self, model=load_checkpoint(folder).model.train())
