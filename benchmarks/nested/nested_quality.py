"""What trained runs are worth: each granularity beside its plain twin, and Mix'n'Match between the granularities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TypeVar

import numpy as np
from torch import Tensor

from benchmarks.common.command import StageProgress
from benchmarks.common.held_out_text import HeldOut
from benchmarks.common.scale import UNIVERSAL, Scale, run_flops
from benchmarks.common.turns import Progress
from benchmarks.nested.mix_choice import MixChoice, choose
from benchmarks.nested.nested_scales import INDEPENDENT, other_objectives
from lts_ray.evaluation.consistency import Predictor, consistency
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.spaces.least_slope import least_slope
from lts_ray.submodel import Submodel
from lts_ray.training.run_folder import RunFolder

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class NestedQuality:
    """A model on the report's text."""

    submodel: Submodel
    decoder_params: int
    loss: float
    agreement: float
    """With the large model it belongs to, as `kl` (see `Consistency`)."""
    kl: float


@dataclass(frozen=True, kw_only=True)
class Twins:
    """A granularity of the universal model beside the plain model of its width."""

    name: str
    universal: NestedQuality
    baseline: NestedQuality

    @property
    def relative_difference(self) -> float:
        """Of the losses; positive where the plain model is better."""
        return self.universal.loss / self.baseline.loss - 1


@dataclass(frozen=True, kw_only=True)
class ScaleQuality:
    twins: tuple[Twins, ...]
    least_slope: tuple[NestedQuality, ...]
    """All such submodels, the granularities among them, growing."""
    equal_sizes: tuple[MixChoice[NestedQuality], ...]
    tokens: int
    """Of the report's text."""

    def line(self, decoder_params: int) -> float:
        """The loss that straight lines through the granularities have at this size."""
        points = [twins.universal for twins in self.twins]
        sizes, losses = [point.decoder_params for point in points], [point.loss for point in points]
        return float(np.interp(decoder_params, sizes, losses))

    def above_line(self, point: NestedQuality) -> float:
        """In nats; negative below it."""
        return point.loss - self.line(point.decoder_params)

    @property
    def between(self) -> tuple[NestedQuality, ...]:
        """The least-slope submodels that training did not optimise."""
        trained = {twins.universal.submodel for twins in self.twins}
        return tuple(point for point in self.least_slope if point.submodel not in trained)

    @property
    def under_the_line(self) -> int:
        """How many of `between` are on or under the line."""
        return sum(self.above_line(point) <= 0 for point in self.between)


@dataclass(frozen=True, kw_only=True)
class ObjectiveQuality:
    """What a universal model came to that was trained by one objective."""

    name: str
    steps: int
    relative_flops: float
    """Of the whole training, over those of the joint one."""
    by_granularity: Mapping[str, NestedQuality]
    """Smallest first."""

    @property
    def mean_loss(self) -> float:
        """Over the granularities: what the joint objective minimises."""
        return fmean(quality.loss for quality in self.by_granularity.values())


def judge_scale(
    universal: MatFormer,
    baselines: Mapping[str, MatFormer],
    text: HeldOut,
    *,
    evaluations: int,
    rng: np.random.Generator,
    progress: StageProgress,
) -> ScaleQuality:
    """baselines: by granularity. evaluations: submodels that the random and the searched choice each look at."""
    config = universal.config
    slope = least_slope(config)
    choices = choose(
        config,
        lambda submodel: validation_loss(universal, text.selection, submodel),
        evaluations=evaluations,
        rng=rng,
        progress=partial(progress, "choosing"),
    )
    asked = list(dict.fromkeys([*slope, *(submodel for choice in choices for submodel in choice.chosen)]))
    qualities = _qualities(
        {submodel: Predictor(universal, submodel) for submodel in asked},
        Predictor(universal, config.universal),
        text.report,
        partial(progress, "Mix'n'Match"),
    )
    plain = {name: Predictor(model, model.config.universal) for name, model in baselines.items()}
    beside = _qualities(plain, list(plain.values())[-1], text.report, partial(progress, "plain models"))
    return ScaleQuality(
        twins=tuple(
            Twins(name=name, universal=qualities[submodel], baseline=beside[name])
            for name, submodel in config.trained.items()
        ),
        least_slope=tuple(qualities[submodel] for submodel in slope),
        equal_sizes=tuple(choice.looked_up(qualities) for choice in choices),
        tokens=text.report[:, 1:].numel(),
    )


def judge_objectives(
    scale: Scale,
    folders: Mapping[str, RunFolder],
    blocks: Tensor,
    *,
    vocab_size: int,
    device: str,
    progress: StageProgress,
) -> tuple[ObjectiveQuality, ...]:
    """The joint run first. blocks: [N, T + 1], of the report. Each granularity is held to its own run's largest."""
    runs = {UNIVERSAL: scale.universal, **other_objectives(scale, vocab_size)}
    joint_flops = run_flops(scale.universal, vocab_size)
    results = []
    for place, (name, settings) in enumerate(runs.items()):
        progress("objectives", place, len(runs))
        members = _members(name, folders[name], scale.model.names, device)
        result = ObjectiveQuality(
            name=name,
            steps=settings.training.steps,
            relative_flops=run_flops(settings, vocab_size) / joint_flops,
            by_granularity=_qualities(members, list(members.values())[-1], blocks),
        )
        results.append(result)
    progress("objectives", len(runs), len(runs))
    return tuple(results)


def _members(name: str, folder: RunFolder, granularities: Sequence[str], device: str) -> dict[str, Predictor]:
    """What a run trained, by granularity: submodels of one model, or models of their own."""
    if name == INDEPENDENT:
        models = {name: load_checkpoint(folder.model / name, device=device).model for name in granularities}
        return {name: Predictor(model, model.config.universal) for name, model in models.items()}
    model = load_checkpoint(folder.model, device=device).model
    return {name: Predictor(model, submodel) for name, submodel in model.config.trained.items()}


def _qualities(
    predictors: Mapping[Key, Predictor],
    reference: Predictor,
    blocks: Tensor,
    progress: Progress = lambda done, total: None,
) -> dict[Key, NestedQuality]:
    """Of each, held to the reference."""
    measured = consistency(reference, list(predictors.values()), blocks, progress=progress)
    return {
        key: NestedQuality(
            submodel=predictor.submodel,
            decoder_params=predictor.model.config.decoder_params(predictor.submodel),
            loss=quality.loss,
            agreement=quality.agreement,
            kl=quality.kl,
        )
        for (key, predictor), quality in zip(predictors.items(), measured, strict=True)
    }
