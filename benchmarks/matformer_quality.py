"""What trained runs are worth: each granularity beside its plain twin, and Mix'n'Match between the granularities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.common.held_out_text import HeldOut
from benchmarks.matformer_choice import Chosen, choose
from lts_ray.evaluation.consistency import Predictor, consistency
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.spaces.least_slope import least_slope
from lts_ray.submodel import Submodel

EVALUATIONS = 24
"""Submodels that the random and the searched choice each look at, at each size."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A model on the report's text. agreement, kl: with the large one it belongs to (see `Consistency`)."""

    submodel: Submodel
    decoder_params: int
    loss: float
    agreement: float
    kl: float

    def to_json(self) -> dict[str, Any]:
        return {
            "widths": self.submodel.to_json(),
            "decoder_params": self.decoder_params,
            "loss": round(self.loss, 6),
            "agreement": round(self.agreement, 6),
            "kl": round(self.kl, 6),
        }


@dataclass(frozen=True, kw_only=True)
class Twins:
    """A granularity of the universal model beside the plain model of its width."""

    name: str
    universal: Quality
    baseline: Quality

    @property
    def relative_difference(self) -> float:
        """Of the losses; positive where the plain model is better."""
        return self.universal.loss / self.baseline.loss - 1

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "universal": self.universal.to_json(),
            "baseline": self.baseline.to_json(),
            "relative_difference": round(self.relative_difference, 6),
        }


@dataclass(frozen=True, kw_only=True)
class AtEqualSize:
    """Ways to choose among the `count` mixes of one size. drawn: some at random, without a choice."""

    decoder_params: int
    count: int
    least_slope: Quality
    searched: Quality
    random_best: Quality
    drawn: tuple[Quality, ...]

    @property
    def drawn_loss(self) -> float:
        return fmean(each.loss for each in self.drawn)

    def to_json(self) -> dict[str, Any]:
        return {
            "decoder_params": self.decoder_params,
            "count": self.count,
            "least_slope": self.least_slope.to_json(),
            "searched": self.searched.to_json(),
            "random_best": self.random_best.to_json(),
            "drawn": [each.to_json() for each in self.drawn],
            "drawn_loss": round(self.drawn_loss, 6),
        }


@dataclass(frozen=True, kw_only=True)
class MatFormerQuality:
    """least_slope: all such submodels, the granularities among them, growing. tokens: of the report's text."""

    twins: tuple[Twins, ...]
    least_slope: tuple[Quality, ...]
    equal_sizes: tuple[AtEqualSize, ...]
    tokens: int

    def line(self, decoder_params: int) -> float:
        """The loss that straight lines through the granularities have at this size."""
        sizes = [each.universal.decoder_params for each in self.twins]
        return float(np.interp(decoder_params, sizes, [each.universal.loss for each in self.twins]))

    def above_line(self, point: Quality) -> float:
        """In nats; negative below it."""
        return point.loss - self.line(point.decoder_params)

    @property
    def between(self) -> tuple[Quality, ...]:
        """The least-slope submodels that training did not optimise."""
        trained = {each.universal.submodel for each in self.twins}
        return tuple(each for each in self.least_slope if each.submodel not in trained)

    @property
    def under_the_line(self) -> int:
        """How many of `between` are on or under the line."""
        return sum(self.above_line(each) <= 0 for each in self.between)

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "granularities": [each.to_json() for each in self.twins],
            "mix_n_match": [
                {**each.to_json(), "line_loss": round(self.line(each.decoder_params), 6)} for each in self.between
            ],
            "equal_sizes": [each.to_json() for each in self.equal_sizes],
        }


def judge(
    universal: MatFormer,
    baselines: Mapping[str, MatFormer],
    text: HeldOut,
    *,
    evaluations: int = EVALUATIONS,
    rng: np.random.Generator,
    progress: Progress = lambda stage, done, total: None,
) -> MatFormerQuality:
    """baselines: by granularity. progress: told of the stage, how much of it is done, and of how much."""
    config = universal.config
    slope = least_slope(config)
    choices = choose(
        config,
        lambda each: validation_loss(universal, text.selection, each),
        evaluations=evaluations,
        rng=rng,
        progress=lambda done, total: progress("choosing", done, total),
    )
    asked = list(dict.fromkeys([*slope, *(each for choice in choices for each in choice.submodels)]))
    measured = qualities(
        Predictor(universal, config.universal),
        [Predictor(universal, each) for each in asked],
        text.report,
        lambda done, total: progress("Mix'n'Match", done, total),
    )
    found = dict(zip(asked, measured, strict=True))
    plain = predictors(baselines)
    alone = qualities(
        plain[list(config.trained)[-1]],
        list(plain.values()),
        text.report,
        lambda done, total: progress("plain models", done, total),
    )
    beside = dict(zip(plain, alone, strict=True))
    return MatFormerQuality(
        twins=tuple(
            Twins(name=name, universal=found[submodel], baseline=beside[name])
            for name, submodel in config.trained.items()
        ),
        least_slope=tuple(found[each] for each in slope),
        equal_sizes=tuple(_judged(choice, found) for choice in choices),
        tokens=text.report[:, 1:].numel(),
    )


def _judged(chosen: Chosen, found: Mapping[Submodel, Quality]) -> AtEqualSize:
    return AtEqualSize(
        decoder_params=found[chosen.least_slope].decoder_params,
        count=chosen.count,
        least_slope=found[chosen.least_slope],
        searched=found[chosen.searched],
        random_best=found[chosen.random_best],
        drawn=tuple(found[each] for each in chosen.drawn),
    )


def qualities(
    reference: Predictor, others: Sequence[Predictor], blocks: Tensor, progress: Callable[[int, int], None]
) -> list[Quality]:
    """Of each of `others`, held to the reference."""
    found = consistency(reference, others, blocks, progress=progress)
    return [
        Quality(
            submodel=each.submodel,
            decoder_params=each.model.config.decoder_params(each.submodel),
            loss=measured.loss,
            agreement=measured.agreement,
            kl=measured.kl,
        )
        for each, measured in zip(others, found, strict=True)
    ]


def predictors(models: Mapping[str, MatFormer]) -> dict[str, Predictor]:
    """Of plain models, each at its one width."""
    return {name: Predictor(model, model.config.universal) for name, model in models.items()}
