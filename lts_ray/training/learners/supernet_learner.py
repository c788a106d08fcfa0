"""Fused architectures learn: all of them in a step, or one that is drawn for it; each has a pass of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lts_ray.evaluation.validation_loss import backbone_loss
from lts_ray.models.backbones.backbone_checkpoint import load_backbone, save_backbone
from lts_ray.models.backbones.supernet import Supernet
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.training.learners.learner import Evaluation, Losses, text_evaluation
from lts_ray.training.learners.objective import Objective


@dataclass(frozen=True, kw_only=True)
class SupernetLearner:
    model: Supernet
    objective: Objective
    """As a universal model's, with members in the place of granularities."""

    @classmethod
    def fresh(cls, config: SupernetConfig, objective: Objective, generator: torch.Generator) -> SupernetLearner:
        model = Supernet(config)
        model.weights.initialize(generator)
        return cls(model=model, objective=objective)

    @property
    def context_length(self) -> int:
        return self.model.config.context_length

    def losses(self, blocks: Tensor, step: int) -> Iterator[Losses]:
        for name, share in self.objective.shares(step).items():
            loss = self.model.loss(name, blocks[:, :-1], blocks[:, 1:])
            yield share * loss, {name: loss.detach()}

    def evaluate(self, blocks: Tensor) -> Evaluation:
        """In training mode too: there is no dropout."""
        using = self.model.using
        return text_evaluation(
            {name: using(name, lambda backbone: backbone_loss(backbone, blocks)) for name in self.model.names}
        )

    def save(self, folder: Path, *, dtype: torch.dtype, evaluation: Evaluation | None = None) -> list[Path]:
        """A plain backbone's checkpoint for each member, in a folder of its name."""
        for name, config in self.model.config.configs.items():
            loss = None if evaluation is None else evaluation["validation_loss"][name]
            save_backbone(self.model.extract(name), config, folder / name, dtype=dtype, validation_loss=loss)
        return [folder / name for name in self.model.names]

    def load(self, folder: Path) -> SupernetLearner:
        """Weights that are no member's part are not in the folder, and are not needed."""
        model = Supernet(self.model.config)
        for name in model.names:
            model.fill(name, load_backbone(folder / name).model.state_dict())
        return replace(self, model=model)
