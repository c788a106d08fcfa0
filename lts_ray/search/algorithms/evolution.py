"""LTS's evolutionary search (appendix B), in generations or steadily, one child after another."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Generic

import numpy as np

from lts_ray.pareto import Objectives, front_of
from lts_ray.search.algorithms.algorithm import Observation
from lts_ray.search.algorithms.breeding import Breeder
from lts_ray.search.algorithms.search_settings import EvolutionSettings
from lts_ray.spaces.search_space import Candidate, SearchSpace


class Evolution(Generic[Candidate]):
    """In generations: each is bred from the front of all before it, and waits for all of their results."""

    def __init__(
        self, space: SearchSpace[Candidate], *, settings: EvolutionSettings, rng: np.random.Generator, lag: int = 0
    ) -> None:
        self.lag = lag
        self._breeder = Breeder(space, settings, rng)
        self._population = max(settings.population, len(space.seeds()))
        self._fronts: dict[str, dict[Candidate, Objectives]] = {}  # of all time, by target

    def propose(self, count: int, seen: AbstractSet[Candidate]) -> Sequence[Candidate]:
        if not seen:
            return self._breeder.first(min(count, self._population))
        return self._breeder.generation(self._parents, count, seen)

    def observe(self, observation: Observation[Candidate]) -> None:
        for target, vector in observation.objectives.items():
            if target in observation.feasible:
                front = self._fronts.get(target, {})
                self._fronts[target] = front_of({**front, observation.candidate: vector})

    @property
    def _parents(self) -> list[Candidate]:
        """The candidates on the front of any target."""
        return list(dict.fromkeys(candidate for front in self._fronts.values() for candidate in front))


class SteadyEvolution(Evolution[Candidate]):
    """Without generations: a child whenever a node is free, bred from what is known `lag` candidates before.

    The first `population` candidates are random. No node waits for the slowest of a generation.
    """

    def propose(self, count: int, seen: AbstractSet[Candidate]) -> Sequence[Candidate]:
        if len(seen) < self._population:
            return self._breeder.first(1, seen)
        return self._breeder.child(self._parents, seen)
