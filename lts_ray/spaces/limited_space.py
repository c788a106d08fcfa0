"""A space without the candidates that have too few or too many parameters: they are rejected before they are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic

import numpy as np

from lts_ray.errors import LtsRayError
from lts_ray.spaces.limits import Limits
from lts_ray.spaces.search_space import Candidate, Gene, SearchSpace

PATIENCE = 10_000
"""Random candidates drawn before limits are said to admit none."""


class LimitedSpace(Generic[Candidate]):
    """Its size is that of the space without the limits: how many candidates keep them takes long to count."""

    def __init__(self, space: SearchSpace[Candidate], limits: Limits) -> None:
        self._space, self._limits = space, limits
        self.name = space.name

    @property
    def size(self) -> int:
        return self._space.size

    @property
    def genes(self) -> Sequence[Gene]:
        return self._space.genes

    def from_genes(self, values: Sequence[int]) -> Candidate:
        return self._space.from_genes(values)

    def to_genes(self, candidate: Candidate) -> Mapping[str, int]:
        return self._space.to_genes(candidate)

    def seeds(self) -> Sequence[Candidate]:
        return list(filter(self.contains, self._space.seeds()))

    def listing(self) -> Sequence[Candidate] | None:
        listed = self._space.listing()
        return None if listed is None else list(filter(self.contains, listed))

    def sample(self, rng: np.random.Generator) -> Candidate:
        """Raises LtsRayError when the limits admit next to nothing."""
        for _ in range(PATIENCE):
            candidate = self._space.sample(rng)
            if self.contains(candidate):
                return candidate
        raise LtsRayError(
            f"none of {PATIENCE} random candidates of the space {self.name} keeps the limits on decoder parameters "
            f"({self._limits.min_decoder_params} to {self._limits.max_decoder_params}): widen them"
        )

    def mutate(self, candidate: Candidate, rng: np.random.Generator, probability: float) -> Candidate:
        return self._space.mutate(candidate, rng, probability)

    def crossover(self, first: Candidate, second: Candidate, rng: np.random.Generator) -> Candidate:
        return self._space.crossover(first, second, rng)

    def contains(self, candidate: Candidate) -> bool:
        return self._space.contains(candidate) and self._limits.admits_params(self._space.decoder_params(candidate))

    def features(self, candidate: Candidate) -> Sequence[float]:
        return self._space.features(candidate)

    def decoder_params(self, candidate: Candidate) -> int:
        return self._space.decoder_params(candidate)

    def to_json(self, candidate: Candidate) -> Any:
        return self._space.to_json(candidate)

    def from_json(self, value: Any) -> Candidate:
        return self._space.from_json(value)
