"""A found architecture learns: one model, one loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lts_ray.evaluation.validation_loss import backbone_loss
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.backbone_checkpoint import load_backbone, save_backbone
from lts_ray.models.backbones.backbone_config import BackboneConfig
from lts_ray.training.learners.learner import Evaluation, Losses, text_evaluation

LOSS = "loss"
"""The name of a backbone's only loss."""


@dataclass(frozen=True)
class BackboneLearner:
    """A Transformer-XL learns without memory: its blocks come in random order."""

    model: Backbone
    config: BackboneConfig
    """What `model` was built from."""

    @classmethod
    def fresh(cls, config: BackboneConfig, generator: torch.Generator) -> BackboneLearner:
        model = config.build()
        model.initialize(generator)
        return cls(model, config)

    @classmethod
    def read(cls, folder: Path) -> BackboneLearner:
        checkpoint = load_backbone(folder)
        return cls(checkpoint.model.train(), checkpoint.config)

    @property
    def context_length(self) -> int:
        return self.config.context_length

    def losses(self, blocks: Tensor, step: int) -> Iterator[Losses]:
        loss = self.model.loss(blocks[:, :-1], blocks[:, 1:])
        yield loss, {LOSS: loss.detach()}

    def evaluate(self, blocks: Tensor) -> Evaluation:
        """In training mode too: there is no dropout."""
        return text_evaluation({LOSS: backbone_loss(self.model, blocks)})

    def save(self, folder: Path, *, dtype: torch.dtype, evaluation: Evaluation | None = None) -> list[Path]:
        loss = None if evaluation is None else evaluation["validation_loss"][LOSS]
        save_backbone(self.model, self.config, folder, dtype=dtype, validation_loss=loss)
        return [folder]

    def load(self, folder: Path) -> BackboneLearner:
        return BackboneLearner.read(folder)
