"""Search by prediction: measure a few candidates, evolve thousands on the costs that those predict, and measure in full
what is then on a front.

A front is never reported on a prediction: candidates that lead by prediction are measured, best expected gain first,
what they took corrects the predictions, and so on until nothing unmeasured leads or the evaluations are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from lts_ray.pareto import non_dominated
from lts_ray.search.algorithms.algorithm import Observation
from lts_ray.search.algorithms.ask_tell import AskTell
from lts_ray.search.algorithms.evolution import Evolution
from lts_ray.search.algorithms.hypervolume_boxes import improvement, undominated_boxes
from lts_ray.search.algorithms.objective_forecast import ObjectiveForecast
from lts_ray.search.algorithms.search_settings import EvolutionSettings
from lts_ray.spaces.search_space import Candidate, SearchSpace

Array = NDArray[np.float64]
ROUND = 10
"""Leading candidates measured before predictions are corrected by what they took."""
MARGIN = 0.05
"""As in `surrogate`: how far the reference point lies beyond the worst vector."""


class Predicted(Generic[Candidate]):
    lag = 0

    def __init__(
        self,
        space: SearchSpace[Candidate],
        forecast: ObjectiveForecast[Candidate],
        *,
        targets: Sequence[str],
        candidates: int,
        evolution: EvolutionSettings,
        limits: Sequence[float | None],
        rng: np.random.Generator,
    ) -> None:
        """candidates: how many evolution looks at. limits: the greatest value of each objective, on every target."""
        self._space, self._forecast, self._targets = space, forecast, tuple(targets)
        self._candidates, self._evolution, self._limits, self._rng = candidates, evolution, limits, rng
        self._measured: dict[str, dict[Candidate, tuple[float, ...]]] = {target: {} for target in targets}
        self._looked_at: list[Candidate] = []
        self._predictors: dict[str, Callable[[Sequence[Candidate]], Array]] = {}

    def propose(self, count: int, seen: AbstractSet[Candidate]) -> Sequence[Candidate]:
        if not seen:
            return list(dict.fromkeys(self._forecast.design(self._rng)))[: count - count // 3]
        if not all(self._measured.values()):
            return []  # nothing could be measured, so nothing can be predicted
        self._predictors = {target: self._forecast.fit(known) for target, known in self._measured.items()}
        if not self._looked_at:
            self._looked_at = self._evolve()
        return self._leading(min(count, ROUND), seen)

    def observe(self, observation: Observation[Candidate]) -> None:
        for target, vector in observation.objectives.items():
            self._measured[target][observation.candidate] = vector

    def _evolve(self) -> list[Candidate]:
        """LTS's evolution on predicted costs: every candidate it looked at."""
        search: AskTell[Candidate] = AskTell(
            Evolution(self._space, settings=self._evolution, rng=self._rng),
            targets=self._targets,
            evaluations=self._candidates,
            admits=lambda _candidate, _target, vector: self._keeps_limits(vector),
        )
        while not search.is_finished:
            asked = []
            while (candidate := search.ask()) is not None:
                asked.append(candidate)
            predicted = {target: self._predictors[target](asked) for target in self._targets}
            for index, candidate in enumerate(asked):
                search.tell(candidate, {target: tuple(predicted[target][index].tolist()) for target in self._targets})
        return list(search.results)

    def _leading(self, count: int, seen: AbstractSet[Candidate]) -> list[Candidate]:
        """Unmeasured candidates that gain hypervolume over what is measured, by prediction: the most gaining first."""
        unknown = [candidate for candidate in self._looked_at if candidate not in seen]
        chosen: list[int] = []
        vectors = {target: self._predictors[target](unknown) for target in self._targets}
        while len(chosen) < min(count, len(unknown)):
            gains = sum(self._gains(target, vectors[target], chosen) for target in self._targets)
            best = int(np.argmax(gains))
            if np.asarray(gains)[best] <= 0:
                break
            chosen.append(best)
        return [unknown[index] for index in chosen]

    def _gains(self, target: str, vectors: Array, chosen: Sequence[int]) -> Array:
        """[n]: what each of vectors [n, m] adds to the measured ones and those chosen before."""
        measured = np.array(self._admitted(target)).reshape(-1, vectors.shape[1])
        known = np.concatenate([measured, vectors[list(chosen)]])
        every = np.concatenate([known, vectors])
        low, high = every.min(axis=0), every.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        front = known[non_dominated([tuple(vector) for vector in known])] if len(known) else known
        caps = [
            1.0 + MARGIN if limit is None else min(1.0 + MARGIN, (limit - low[index]) / span[index])
            for index, limit in enumerate(self._limits)
        ]
        return improvement((vectors - low) / span, undominated_boxes((front - low) / span, np.array(caps)))

    def _admitted(self, target: str) -> list[tuple[float, ...]]:
        return [
            vector
            for candidate, vector in self._measured[target].items()
            if self._space.contains(candidate) and self._keeps_limits(vector)
        ]

    def _keeps_limits(self, vector: Sequence[float]) -> bool:
        return all(limit is None or value <= limit for value, limit in zip(vector, self._limits, strict=True))
