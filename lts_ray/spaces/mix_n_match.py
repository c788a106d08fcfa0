"""The submodels of one trained universal model: each layer's FFN width is a multiple of a fraction of the full one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.models.config import MatFormerConfig
from lts_ray.spaces.base import Gene

STEPS = 8
"""The smallest step that contains the trained granularities 1/8, 1/4, 1/2 and 1."""

LISTED = 5_000
"""The most candidates that are worth listing."""


class MixNMatch:
    """A gene is one layer's width: k/steps of its full width, k = 1..steps."""

    name = "mix-n-match"

    def __init__(self, config: MatFormerConfig, steps: int = STEPS) -> None:
        narrowest = min(config.widths)
        if not 1 <= steps <= narrowest:
            raise LtsRayError(f"steps must be between 1 and the narrowest layer's {narrowest} neurons; got {steps}")
        self.config = config
        self.choices = tuple(
            tuple(round(k * width / steps) for k in range(1, steps + 1))  # as MatFormerConfig.fraction rounds
            for width in config.widths
        )

    @property
    def size(self) -> int:
        return math.prod(len(widths) for widths in self.choices)

    @property
    def genes(self) -> Sequence[Gene]:
        return [Gene(name=f"width_{layer}", choices=widths) for layer, widths in enumerate(self.choices)]

    def from_genes(self, values: Sequence[int]) -> Submodel:
        return Submodel(tuple(values))

    def to_genes(self, candidate: Submodel) -> Mapping[str, int]:
        return {f"width_{layer}": width for layer, width in enumerate(candidate.widths)}

    def seeds(self) -> Sequence[Submodel]:
        """The trained granularities that the space has, largest first."""
        trained = reversed(list(self.config.trained.values()))
        return [submodel for submodel in trained if self.contains(submodel)]

    def listing(self) -> Sequence[Submodel] | None:
        return [Submodel(widths) for widths in product(*self.choices)] if self.size <= LISTED else None

    def sample(self, rng: np.random.Generator) -> Submodel:
        return Submodel(tuple(_draw(widths, rng) for widths in self.choices))

    def mutate(self, candidate: Submodel, rng: np.random.Generator, probability: float) -> Submodel:
        return Submodel(
            tuple(
                _draw(widths, rng) if rng.random() < probability else width
                for width, widths in zip(candidate.widths, self.choices, strict=True)
            )
        )

    def crossover(self, first: Submodel, second: Submodel, rng: np.random.Generator) -> Submodel:
        pairs = zip(first.widths, second.widths, strict=True)
        return Submodel(tuple(mine if rng.random() < 0.5 else other for mine, other in pairs))

    def contains(self, candidate: Submodel) -> bool:
        return len(candidate.widths) == len(self.choices) and all(
            width in widths for width, widths in zip(candidate.widths, self.choices, strict=True)
        )

    def features(self, candidate: Submodel) -> Sequence[float]:
        """The neurons of all layers, which latency and memory follow, and each layer's own."""
        return (math.log(sum(candidate.widths)), *(math.log(width) for width in candidate.widths))

    def decoder_params(self, candidate: Submodel) -> int:
        return self.config.decoder_params(candidate)

    def to_json(self, candidate: Submodel) -> list[int]:
        return candidate.to_json()

    def from_json(self, value: Any) -> Submodel:
        candidate = Submodel.from_json(value)
        if not self.contains(candidate):
            raise LtsRayError(f"{value} is not in the space {self.name} of this model")
        return candidate


def _draw(widths: Sequence[int], rng: np.random.Generator) -> int:
    return widths[int(rng.integers(len(widths)))]
