"""A universal model learns: all granularities by the joint loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lts_ray.evaluation.perplexity import validation_loss as granularity_loss
from lts_ray.models.checkpoint import load_checkpoint, save_checkpoint
from lts_ray.models.matformer import MatFormer
from lts_ray.training.objective import joint_loss


@dataclass(frozen=True)
class UniversalLearner:
    """weights: the λ of each granularity."""

    model: MatFormer
    weights: Mapping[str, float]

    @property
    def context_length(self) -> int:
        return self.model.config.context_length

    def losses(self, blocks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return joint_loss(self.model, blocks, self.weights)

    def evaluate(self, blocks: Tensor) -> dict[str, float]:
        trained = self.model.config.trained
        return {name: granularity_loss(self.model, blocks, submodel) for name, submodel in trained.items()}

    def save(self, folder: Path, *, dtype: torch.dtype, validation_loss: Mapping[str, float] | None = None) -> None:
        save_checkpoint(self.model, folder, dtype=dtype, validation_loss=validation_loss)

    def load(self, folder: Path) -> UniversalLearner:
        return replace(self, model=load_checkpoint(folder).model.train())
