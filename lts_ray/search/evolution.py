"""LTS's evolutionary search as plain ask and tell: no Ray, no files, no clock.

Generational and deterministic: what is asked next depends on the seed and on the results of completed generations,
taken in the order they were asked for. In which order results arrive changes nothing, so a log of results in any
order is enough to come back to the same state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic

import numpy as np

from lts_ray.errors import LtsRayError
from lts_ray.measurement.measure import Failed
from lts_ray.search.breeding import Breeder
from lts_ray.search.front import Front
from lts_ray.search.pareto import Objectives
from lts_ray.search.settings import EvolutionSettings
from lts_ray.spaces.base import Candidate, SearchSpace

Result = Mapping[str, Objectives] | Failed
"""What a candidate's evaluation gave: objectives on each target, all minimised, or why there are none."""


class Evolution(Generic[Candidate]):
    """`ask` until it has nothing, `tell` results, until `is_finished`."""

    def __init__(
        self,
        space: SearchSpace[Candidate],
        *,
        targets: Sequence[str],
        evaluations: int,
        settings: EvolutionSettings,
        rng: np.random.Generator,
    ) -> None:
        self._breeder = Breeder(space, settings, rng)
        self._population = settings.population
        self._left = evaluations
        self._fronts: dict[str, Front[Candidate]] = {target: Front() for target in targets}
        self._results: dict[Candidate, Result] = {}
        self._generation: list[Candidate] = []
        self._asked = 0  # how many of the generation were handed out
        self._seen: set[Candidate] = set()
        self._exhausted = False
        self._begin(self._breeder.first_generation(min(self._population, self._left)))

    def ask(self) -> Candidate | None:
        """A new candidate; None when there is none now: either `is_finished`, or results are outstanding."""
        if self._asked == len(self._generation):
            return None
        candidate = self._generation[self._asked]
        self._asked += 1
        return candidate

    def tell(self, candidate: Candidate, result: Result) -> None:
        """Record a result. A second one for the same candidate is ignored, one that was not asked for an error."""
        if candidate in self._results:
            return
        if candidate not in self._generation[: self._asked]:
            raise LtsRayError(f"a result for {candidate}, which the search did not ask for")
        if not isinstance(result, Failed) and result.keys() != self._fronts.keys():
            raise LtsRayError(f"a result needs objectives for {', '.join(self._fronts)}; got {', '.join(result)}")
        self._results[candidate] = result
        if all(each in self._results for each in self._generation):
            self._complete()

    @property
    def is_finished(self) -> bool:
        """All evaluations are used, or the space has nothing new; and every result is in."""
        return not self._generation

    @property
    def is_exhausted(self) -> bool:
        """The space ran out of new candidates before the evaluations were used."""
        return self._exhausted

    @property
    def outstanding(self) -> list[Candidate]:
        """Asked for and not told, in the order they were asked."""
        return [each for each in self._generation[: self._asked] if each not in self._results]

    @property
    def results(self) -> Mapping[Candidate, Result]:
        """All results so far, in the order of arrival."""
        return self._results

    def front(self, target: str) -> Mapping[Candidate, Objectives]:
        """The non-dominated candidates on `target` among all results so far, also of the running generation."""
        front: Front[Candidate] = Front()
        front.add({each: result[target] for each, result in self._results.items() if not isinstance(result, Failed)})
        return front.members

    def _complete(self) -> None:
        """Take in the generation in the order it was asked for, then breed the next."""
        for target, front in self._fronts.items():
            told = ((each, self._results[each]) for each in self._generation)
            front.add({each: result[target] for each, result in told if not isinstance(result, Failed)})
        parents = dict.fromkeys(each for front in self._fronts.values() for each in front.members)
        children = self._breeder.next_generation(list(parents), self._left, self._seen) if self._left else []
        self._exhausted = self._left > 0 and not children
        self._begin(children)

    def _begin(self, generation: list[Candidate]) -> None:
        self._generation, self._asked = generation, 0
        self._seen.update(generation)
        self._left -= len(generation)
