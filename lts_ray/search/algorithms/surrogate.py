"""Surrogate-assisted search: regress every objective on a candidate's features, and evaluate where the hypervolume is
expected to grow most.

Each objective of each target has a Gaussian process of its own, refit as results come, on the logarithm where all
values are positive (costs are products of widths). What it expects to *observe* counts, noise included. Candidates come
from the space's own operators, as in evolution, or from its whole list if it is short. An objective that can be
computed, such as decoder parameters, is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from lts_ray.pareto import Objectives, non_dominated
from lts_ray.search.algorithms.algorithm import Observation
from lts_ray.search.algorithms.breeding import Breeder
from lts_ray.search.algorithms.hypervolume_boxes import expected_improvement, improvement, undominated_boxes
from lts_ray.search.algorithms.regression import Regression
from lts_ray.search.algorithms.search_settings import EvolutionSettings
from lts_ray.spaces.search_space import Candidate, SearchSpace

Array = NDArray[np.float64]
INITIAL = 10
"""Random candidates before the first fit, the space's seeds among them, all of which are."""
REFRESH = 10
"""Observations after which the shortlist is drawn anew."""
SHORTLIST = 300
DRAWN = 400
"""Random candidates, and as many children of the front, that a shortlist is chosen from."""
OPTIMISM = 1.0
"""The shortlist ranks by the gain of a value this many standard deviations better than expected."""
MARGIN = 0.05
"""The reference point lies this share of the observed range beyond the worst value observed."""
LARGEST_FRONT = {2: 1000, 3: 300}
"""Points of a front that improvement is computed against, by dimension; more cost more than they tell."""


@dataclass(frozen=True, kw_only=True)
class Sureness:
    objective: int
    """Its index."""
    mean_error: float
    """Of predictions, relative."""
    within_95: float
    """The share of results in the interval that should hold 95 %."""


class Surrogate(Generic[Candidate]):
    def __init__(
        self,
        space: SearchSpace[Candidate],
        *,
        targets: Sequence[str],
        rng: np.random.Generator,
        lag: int = 0,
        exact_quality: Callable[[Candidate], float] | None = None,
        limits: Sequence[float | None] | None = None,
    ) -> None:
        """exact_quality: computes the first objective. limits: the greatest value of each objective."""
        self.lag = lag
        self._space, self._targets, self._rng = space, tuple(targets), rng
        self._breeder = Breeder(space, EvolutionSettings(), rng)
        self._initial = max(INITIAL, len(space.seeds()))
        self._exact_quality, self._limits = exact_quality, limits or ()
        self._observed: list[Observation[Candidate]] = []  # those that did not fail
        self._features: dict[Candidate, tuple[float, ...]] = {}
        self._pending: list[Candidate] = []
        self._shortlist: list[Candidate] = []
        self._regressions: dict[tuple[str, int], Regression] = {}
        self._drawn_at = 0
        self._expected: dict[Candidate, dict[str, tuple[Array, Array]]] = {}
        self._surprises: dict[int, list[tuple[float, float]]] = {}  # by objective: relative error, and in deviations

    def propose(self, count: int, seen: AbstractSet[Candidate]) -> Sequence[Candidate]:
        if len(seen) < self._initial or len(self._observed) < 2:
            proposals = self._breeder.first(min(count, max(1, self._initial - len(seen))), seen)
        else:
            self._learn()
            stale = len(self._observed) >= self._drawn_at + REFRESH
            fresh = [candidate for candidate in self._shortlist if candidate not in seen]
            if stale or len(fresh) < SHORTLIST // 3:
                fresh = self._draw(seen)
            self._shortlist = fresh
            proposals = [fresh[int(np.argmax(self._gains(fresh)))]] if fresh else []
            for candidate in proposals:
                self._expected[candidate] = {target: self.predict([candidate], target) for target in self._targets}
        self._pending += proposals
        return proposals

    def observe(self, observation: Observation[Candidate]) -> None:
        self._pending.remove(observation.candidate)
        if observation.objectives:
            self._observed.append(observation)
            self._compare(observation)

    def predict(self, candidates: Sequence[Candidate], target: str) -> tuple[Array, Array]:
        """What is expected to be observed on `target`: means and standard deviations, [n, objectives] each."""
        rows = [self._row(candidate) for candidate in candidates]
        columns = [self._column(candidates, rows, target, index) for index in range(self._n_objectives)]
        return np.stack([mean for mean, _ in columns], axis=1), np.stack(
            [deviation for _, deviation in columns], axis=1
        )

    @property
    def sureness(self) -> tuple[Sureness, ...]:
        """How good the predictions of the candidates that it chose were, by objective; computed ones are left out."""
        return tuple(
            Sureness(
                objective=index,
                mean_error=float(np.mean([error for error, _ in surprises])),
                within_95=float(np.mean([away <= 1.96 for _, away in surprises])),
            )
            for index, surprises in sorted(self._surprises.items())
        )

    def _compare(self, observation: Observation[Candidate]) -> None:
        """Note how far what was observed lies from what was expected."""
        for target, (means, deviations) in self._expected.pop(observation.candidate, {}).items():
            for index, value in enumerate(observation.objectives[target]):
                if index == 0 and (self._exact_quality or target != self._targets[0]):
                    continue
                off = abs(value - means[0, index])
                away = off / max(deviations[0, index], 1e-12)
                self._surprises.setdefault(index, []).append((float(off / max(abs(value), 1e-12)), float(away)))

    @property
    def _n_objectives(self) -> int:
        return len(self._observed[0].objectives[self._targets[0]])

    def _learn(self) -> None:
        rows = [self._row(observation.candidate) for observation in self._observed]
        for target in self._targets:
            for index in range(self._n_objectives):
                if index == 0 and (self._exact_quality or target != self._targets[0]):
                    continue  # quality does not depend on the target
                values = [observation.objectives[target][index] for observation in self._observed]
                regression = self._regressions.setdefault((target, index), Regression())
                regression.learn(rows, values)

    def _column(
        self, candidates: Sequence[Candidate], rows: Sequence[Sequence[float]], target: str, index: int
    ) -> tuple[Array, Array]:
        if index == 0 and self._exact_quality:
            return np.array([self._exact_quality(candidate) for candidate in candidates]), np.zeros(len(candidates))
        return self._regressions[self._targets[0] if index == 0 else target, index].predict(rows)

    def _row(self, candidate: Candidate) -> tuple[float, ...]:
        if candidate not in self._features:
            self._features[candidate] = tuple(self._space.features(candidate))
        return self._features[candidate]

    def _draw(self, seen: AbstractSet[Candidate]) -> list[Candidate]:
        """The most promising of many candidates."""
        self._drawn_at = len(self._observed)
        listed = self._space.listing()
        if listed is None:
            drawn = self._breeder.pool(self._front(), DRAWN, seen)
        else:
            drawn = [candidate for candidate in listed if candidate not in seen]
        if len(drawn) <= SHORTLIST:
            return drawn
        hopes = self._gains(drawn, optimistic=True)
        return [drawn[int(index)] for index in np.argsort(-hopes, kind="stable")[:SHORTLIST]]

    def _front(self) -> list[Candidate]:
        chosen: dict[Candidate, None] = {}
        for target in self._targets:
            feasible = [observation for observation in self._observed if target in observation.feasible]
            front = non_dominated([observation.objectives[target] for observation in feasible])
            chosen.update(dict.fromkeys(feasible[index].candidate for index in front))
        return list(chosen)

    def _gains(self, candidates: Sequence[Candidate], *, optimistic: bool = False) -> Array:
        """What each candidate is expected to add to the hypervolumes of all targets."""
        total = np.zeros(len(candidates))
        for target in self._targets:
            means, deviations = self.predict(candidates, target)
            low, high = self._range(target)
            front = (self._front_vectors(target) - low) / (high - low)
            means, deviations = (means - low) / (high - low), deviations / (high - low)
            boxes = undominated_boxes(front, self._reference(low, high))
            if optimistic:
                total += improvement(means - OPTIMISM * deviations, boxes)
            else:
                total += expected_improvement(means, deviations, boxes)
        return total

    def _range(self, target: str) -> tuple[Array, Array]:
        vectors = np.array([observation.objectives[target] for observation in self._observed])
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        return low, np.where(high > low, high, low + 1.0)

    def _reference(self, low: Array, high: Array) -> Array:
        """Beyond the worst value observed, but never beyond a limit: what breaks one gains nothing."""
        scaled = [1.0 + MARGIN] * len(low)
        for index, limit in enumerate(self._limits):
            if limit is not None:
                scaled[index] = min(scaled[index], (limit - low[index]) / (high[index] - low[index]))
        return np.array(scaled)

    def _front_vectors(self, target: str) -> Array:
        """The front, and pending candidates where they are expected to be: no two are chosen for the same gain."""
        vectors: list[Objectives] = [
            observation.objectives[target] for observation in self._observed if target in observation.feasible
        ]
        if self._pending:
            means, _ = self.predict(self._pending, target)
            vectors += [tuple(mean) for mean in means.tolist()]
        front = [vectors[index] for index in non_dominated(vectors)]
        most = LARGEST_FRONT.get(self._n_objectives, 60)
        if len(front) > most:
            chosen = self._rng.choice(len(front), size=most, replace=False)
            front = [front[int(index)] for index in chosen]
        return np.array(front).reshape(len(front), self._n_objectives)
