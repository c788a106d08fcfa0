"""A MatViT learns: classes in place of next tokens, all granularities jointly or one a step (MatFormer, equation 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_checkpoint import load_vit, save_vit
from lts_ray.training.learners.learner import Evaluation, Losses
from lts_ray.training.learners.objective import Objective
from lts_ray.training.learners.universal_learner import Passes
from lts_ray.vision.accuracy import image_quality
from lts_ray.vision.images import Images, normalize


@dataclass(frozen=True, kw_only=True)
class ViTLearner:
    model: MatViT
    objective: Objective
    passes: Passes = "mixed"
    """All granularities of a step in one pass, or a pass for each, which takes less memory."""

    def losses(self, images: Images, step: int) -> Iterator[Losses]:
        shares = self.objective.shares(step)
        groups = [shares] if self.passes == "mixed" else [{name: share} for name, share in shares.items()]
        for group in groups:
            losses = self._pass(images, group)
            total = torch.stack([share * losses[name] for name, share in group.items()]).sum()
            yield total, {name: loss.detach() for name, loss in losses.items()}

    def _pass(self, images: Images, shares: Mapping[str, float]) -> dict[str, Tensor]:
        """In nats, of each granularity that is named."""
        model, submodels = self.model, [self.model.config.trained[name] for name in shares]
        pixels = normalize(images.pixels, model.config)
        encoded = (
            model.encode(pixels, submodel=submodels[0]) if len(submodels) == 1 else model.fan_out(pixels, submodels)
        )
        logits = model.classify(encoded).float().view(len(submodels), len(images), -1)  # [G, B, classes]
        return {name: functional.cross_entropy(part, images.labels) for name, part in zip(shares, logits, strict=True)}

    def evaluate(self, images: Images) -> Evaluation:
        results = image_quality(self.model, list(self.model.config.trained), images)
        return {
            "validation_accuracy": {result.name: result.accuracy for result in results},
            "validation_loss": {result.name: result.loss for result in results},
        }

    def save(self, folder: Path, *, dtype: torch.dtype, evaluation: Evaluation | None = None) -> list[Path]:
        accuracy = None if evaluation is None else evaluation["validation_accuracy"]
        save_vit(self.model, folder, dtype=dtype, accuracy=accuracy)
        return [folder]

    def load(self, folder: Path) -> ViTLearner:
        return replace(self, model=load_vit(folder).model)
