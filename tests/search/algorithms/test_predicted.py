"""Search by prediction, with a law of costs that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lts_ray.pareto import Objectives, bounds_of, relative_hypervolume
from lts_ray.search.algorithms.ask_tell import AskTell
from lts_ray.search.algorithms.registry import make_algorithm
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.submodel import Submodel
from tests.search.helpers import CONFIG, SMALL, TARGETS, result_of

SPACE = MixNMatch(CONFIG)


@dataclass(frozen=True)
class Oracle:
    """Knows the costs, but takes everything for this factor slower than it is until it has seen 20 candidates."""

    target: str
    factor: float = 1.0

    def __call__(self, candidates: Sequence[Submodel]) -> NDArray[np.float64]:
        vectors = np.array([result_of(each)[self.target] for each in candidates])
        vectors[:, 1:3] *= self.factor
        return vectors


@dataclass(frozen=True)
class KnownLaw:
    """Tells targets apart by the size of what was measured there, which `FakeEvaluator` makes differ."""

    def design(self, rng: np.random.Generator) -> Sequence[Submodel]:
        return [SPACE.sample(rng) for _ in range(12)]

    def fit(self, measured: Mapping[Submodel, Objectives]) -> Oracle:
        first, vector = next(iter(measured.items()))
        target = next(each for each in TARGETS if result_of(first)[each] == vector)
        return Oracle(target, factor=1.0 if len(measured) >= 20 else 1.3)


def search(
    *, evaluations: int, predicted: int = 300, limits: Sequence[float | None] = (None,) * 4
) -> AskTell[Submodel]:
    algorithm = make_algorithm(
        "predicted",
        SPACE,
        targets=TARGETS,
        n_objectives=4,
        evaluations=evaluations,
        rng=np.random.default_rng(0),
        evolution=SMALL,
        forecast=KnownLaw(),
        predicted=predicted,
        limits=limits,
    )
    return AskTell(algorithm, targets=TARGETS, evaluations=evaluations)


def run(chosen: AskTell[Submodel]) -> list[Submodel]:
    asked = []
    while (candidate := chosen.ask()) is not None:
        asked.append(candidate)
        chosen.tell(candidate, result_of(candidate))
    return asked


def test_forty_measurements_find_what_three_hundred_would() -> None:
    """The predictions' evolution sees 300 candidates; nearly all that it found is measured, and none twice."""
    found = run(search(evaluations=40))
    assert len(found) == len(set(found)) == 40
    rng = np.random.default_rng(1)
    chance = {SPACE.sample(rng): None for _ in range(40)}
    vectors = [[result_of(each)["slow"] for each in group] for group in (found, chance)]
    bounds = bounds_of([*vectors[0], *vectors[1]])
    assert relative_hypervolume(vectors[0], bounds) > relative_hypervolume(vectors[1], bounds)


def test_it_ends_when_nothing_unmeasured_leads() -> None:
    chosen = search(evaluations=2000, predicted=40)
    found = run(chosen)
    assert len(found) < 60
    assert chosen.is_exhausted


def test_what_breaks_a_limit_on_every_target_is_not_measured() -> None:
    found = run(search(evaluations=60, limits=(None, 3.0, None, None)))
    chosen = [result_of(each) for each in found[12:]]
    assert chosen
    assert all(min(vectors[target][1] for target in TARGETS) <= 3.0 for vectors in chosen)
