"""Other ways to train the universal model beside the joint one: what each granularity came to, and at what compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor

from benchmarks.matformer_quality import Quality, predictors, qualities
from benchmarks.matformer_scales import INDEPENDENT, UNIVERSAL, Scale
from lts_ray.evaluation.consistency import Predictor
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class ObjectiveResult:
    """flops: of the whole training; relative_flops: over those of the joint one. by_granularity: smallest first."""

    name: str
    steps: int
    flops: float
    relative_flops: float
    by_granularity: Mapping[str, Quality]

    @property
    def mean_loss(self) -> float:
        """Over the granularities: what the joint objective minimises."""
        return fmean(each.loss for each in self.by_granularity.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "steps": self.steps,
            "flops": self.flops,
            "relative_flops": round(self.relative_flops, 4),
            "mean_loss": round(self.mean_loss, 6),
            "granularities": {name: each.to_json() for name, each in self.by_granularity.items()},
        }


def judge_objectives(
    scale: Scale,
    folders: Mapping[str, RunFolder],
    blocks: Tensor,
    *,
    vocab_size: int,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> tuple[ObjectiveResult, ...]:
    """The joint run first. blocks: [N, T + 1], of the report. Each granularity is held to its own run's largest."""
    runs = {UNIVERSAL: scale.universal, **scale.objectives(vocab_size)}
    joint_flops = scale.flops(scale.universal, vocab_size)
    results = []
    for place, (name, settings) in enumerate(runs.items()):
        progress("objectives", place, len(runs))
        members = _members(name, folders[name], list(scale.config(vocab_size).trained), device)
        found = qualities(list(members.values())[-1], list(members.values()), blocks, lambda done, total: None)
        flops = scale.flops(settings, vocab_size)
        results.append(
            ObjectiveResult(
                name=name,
                steps=settings.training.steps,
                flops=flops,
                relative_flops=flops / joint_flops,
                by_granularity=dict(zip(members, found, strict=True)),
            )
        )
    progress("objectives", len(runs), len(runs))
    return tuple(results)


def _members(name: str, folder: RunFolder, granularities: list[str], device: str) -> dict[str, Predictor]:
    """What a run trained, by granularity: submodels of one model, or models of their own."""
    if name == INDEPENDENT:
        return predictors({each: load_checkpoint(folder.model / each, device=device).model for each in granularities})
    model = load_checkpoint(folder.model, device=device).model
    return {each: Predictor(model, submodel) for each, submodel in model.config.trained.items()}
