"""Making children: one step over (parents, generator) that mates, rejects duplicates and knows when to give up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic

import numpy as np

from lts_ray.search.algorithms.search_settings import EvolutionSettings
from lts_ray.spaces.search_space import Candidate, SearchSpace


class Breeder(Generic[Candidate]):
    """Counts how often each candidate was a parent: the less visited ones are drawn more often."""

    def __init__(self, space: SearchSpace[Candidate], settings: EvolutionSettings, rng: np.random.Generator) -> None:
        self._space, self._settings, self._rng = space, settings, rng
        self._visits: dict[Candidate, int] = {}

    def first(self, count: int, seen: AbstractSet[Candidate] = frozenset()) -> list[Candidate]:
        """The space's seeds, then random candidates."""
        children = [candidate for candidate in dict.fromkeys(self._space.seeds()) if candidate not in seen][:count]
        return self._fill_up(children, count, seen)

    def generation(self, front: Sequence[Candidate], count: int, seen: AbstractSet[Candidate]) -> list[Candidate]:
        """At most `count` candidates that are neither in `seen` nor each other's copies; none: the space is exhausted.

        Where mutants and crossovers keep repeating what is known, random candidates take their places.
        """
        children: list[Candidate] = []
        if front:
            parents = self._draw_parents(front, self._settings.parents)
            mutants = min(self._settings.mutants, count)
            self._extend(children, lambda: self._mutant(parents), mutants, seen)
            crossovers = min(self._settings.crossovers, count - len(children))
            self._extend(children, lambda: self._crossover(parents), crossovers, seen)
        return self._fill_up(children, min(count, self._settings.mutants + self._settings.crossovers), seen)

    def child(self, front: Sequence[Candidate], seen: AbstractSet[Candidate]) -> list[Candidate]:
        """One candidate, bred with LTS's odds of a mutant against a crossover; none: the space is exhausted."""
        children: list[Candidate] = []
        if front:
            parents = self._draw_parents(front, 2)
            share = self._settings.mutants / (self._settings.mutants + self._settings.crossovers)
            breed = self._mutant if self._rng.random() < share else self._crossover
            self._extend(children, lambda: breed(parents), 1, seen)
        return self._fill_up(children, 1, seen)

    def pool(self, front: Sequence[Candidate], count: int, seen: AbstractSet[Candidate]) -> list[Candidate]:
        """`count` random candidates and as many children of `front`, to choose from."""
        children = self._fill_up([], count, seen)
        if front:
            parents = self._draw_parents(front, len(front))
            self._extend(children, lambda: self._mutant(parents), count // 2, seen)
            self._extend(children, lambda: self._crossover(parents), count // 2, seen)
        return children

    def _mutant(self, parents: Sequence[Candidate]) -> Candidate:
        parent = parents[int(self._rng.integers(len(parents)))]
        return self._space.mutate(parent, self._rng, self._settings.mutation_probability)

    def _crossover(self, parents: Sequence[Candidate]) -> Candidate:
        first, second = (parents[int(self._rng.integers(len(parents)))] for _ in range(2))
        return self._space.crossover(first, second, self._rng)

    def _draw_parents(self, front: Sequence[Candidate], count: int) -> list[Candidate]:
        """With replacement, with weight 1 / (1 + visits scaled to [0, 1] over the front)."""
        visits = np.array([self._visits.get(candidate, 0) for candidate in front], dtype=np.float64)
        weights = 1 / (1 + (visits - visits.min()) / max(visits.max() - visits.min(), 1))
        drawn = self._rng.choice(len(front), size=count, p=weights / weights.sum())
        parents = [front[int(index)] for index in drawn]
        for parent in parents:
            self._visits[parent] = self._visits.get(parent, 0) + 1
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
        """Append up to `count` new candidates; stop when none comes for too long (`patience`: how many times the
        settings' number of draws). A child that breaks the space's rules is rejected, not repaired."""
        siblings = set(children)
        for _ in range(count):
            for _ in range(patience * self._settings.patience):
                child = make()
                if child not in seen and child not in siblings and self._space.contains(child):
                    siblings.add(child)
                    children.append(child)
                    break
            else:
                return
