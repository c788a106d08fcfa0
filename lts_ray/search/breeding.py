"""Making children: one step over (parents, generator) that mates, rejects duplicates and knows when to give up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic

import numpy as np

from lts_ray.search.settings import EvolutionSettings
from lts_ray.spaces.base import Candidate, SearchSpace


class Breeder(Generic[Candidate]):
    """Counts how often each candidate was a parent: the less visited ones are drawn more often."""

    def __init__(self, space: SearchSpace[Candidate], settings: EvolutionSettings, rng: np.random.Generator) -> None:
        self._space, self._settings, self._rng = space, settings, rng
        self._visits: dict[Candidate, int] = {}

    def first_generation(self, count: int) -> list[Candidate]:
        """The space's seeds, then random candidates."""
        children = list(dict.fromkeys(self._space.seeds()))[:count]
        return self._fill_up(children, count, set())

    def next_generation(self, front: Sequence[Candidate], count: int, seen: AbstractSet[Candidate]) -> list[Candidate]:
        """At most `count` candidates that are neither in `seen` nor each other's copies; none: the space is exhausted.

        Where mutants and crossovers keep repeating what is known, random candidates take their places.
        """
        settings, space, rng = self._settings, self._space, self._rng
        children: list[Candidate] = []
        count = min(count, settings.mutants + settings.crossovers)
        if front:
            parents = self._draw_parents(front)

            def parent() -> Candidate:
                return parents[int(rng.integers(len(parents)))]

            def mutant() -> Candidate:
                return space.mutate(parent(), rng, settings.mutation_probability)

            def crossover() -> Candidate:
                return space.crossover(parent(), parent(), rng)

            self._extend(children, mutant, min(settings.mutants, count), seen)
            self._extend(children, crossover, count - len(children), seen)
        return self._fill_up(children, count, seen)

    def _draw_parents(self, front: Sequence[Candidate]) -> list[Candidate]:
        """With replacement, with weight 1 / (1 + visits scaled to [0, 1] over the front)."""
        visits = np.array([self._visits.get(candidate, 0) for candidate in front], dtype=np.float64)
        weights = 1 / (1 + (visits - visits.min()) / max(visits.max() - visits.min(), 1))
        drawn = self._rng.choice(len(front), size=self._settings.parents, p=weights / weights.sum())
        parents = [front[int(index)] for index in drawn]
        for each in parents:
            self._visits[each] = self._visits.get(each, 0) + 1
        return parents

    def _fill_up(self, children: list[Candidate], count: int, seen: AbstractSet[Candidate]) -> list[Candidate]:
        left = self._space.size - len(seen) - len(children)
        fresh = min(count - len(children), left)
        self._extend(children, lambda: self._space.sample(self._rng), fresh, seen, patience=10)
        return children

    def _extend(
        self,
        children: list[Candidate],
        make: Callable[[], Candidate],
        count: int,
        seen: AbstractSet[Candidate],
        *,
        patience: int = 1,
    ) -> None:
        """Append up to `count` new candidates; stop at one that stays a duplicate too long (`patience`: how many times
        the settings' number of draws)."""
        siblings = set(children)
        for _ in range(count):
            for _ in range(patience * self._settings.patience):
                child = make()
                if child not in seen and child not in siblings:
                    siblings.add(child)
                    children.append(child)
                    break
            else:
                return
