"""What every algorithm must do, whatever it proposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lts_ray.errors import LtsRayError
from lts_ray.measurement.measurement import Failed
from lts_ray.pareto import bounds_of, relative_hypervolume
from lts_ray.search.algorithms.ask_tell import AskTell
from lts_ray.search.algorithms.search_settings import AlgorithmName
from lts_ray.search.algorithms.surrogate import Surrogate
from lts_ray.spaces.limits import Limits
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.submodel import Submodel
from tests.search.helpers import CONFIG, TARGETS, ask_all, result_of, search_by

ALGORITHMS: Sequence[AlgorithmName] = ("lts", "steady", "surrogate", "nsga2", "nsga3", "tpe", "random")
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def run(search: AskTell[Submodel], *, rng: np.random.Generator | None = None) -> list[Submodel]:
    """All candidates in the order they were asked; results of those in flight arrive in a random order, if `rng`."""
    asked: list[Submodel] = []
    open_: list[Submodel] = []
    while True:
        new = ask_all(search)
        asked += new
        open_ += new
        if not open_:
            return asked
        index = 0 if rng is None else int(rng.integers(len(open_)))
        candidate = open_.pop(index)
        search.tell(candidate, result_of(candidate))


@every_algorithm
def test_it_uses_all_evaluations_and_asks_for_nothing_twice(algorithm: AlgorithmName) -> None:
    search = search_by(algorithm, evaluations=30)
    asked = run(search)
    assert len(asked) == len(set(asked)) == 30
    assert all(MixNMatch(CONFIG).contains(each) for each in asked)
    assert search.is_finished
    assert not search.is_exhausted


@every_algorithm
def test_the_order_in_which_results_arrive_changes_nothing(algorithm: AlgorithmName) -> None:
    plain = run(search_by(algorithm, evaluations=24, lag=3))
    assert run(search_by(algorithm, evaluations=24, lag=3), rng=np.random.default_rng(5)) == plain


@every_algorithm
def test_another_seed_asks_for_others(algorithm: AlgorithmName) -> None:
    assert run(search_by(algorithm, evaluations=20)) != run(search_by(algorithm, evaluations=20, seed=1))


@pytest.mark.parametrize("algorithm", [each for each in ALGORITHMS if each != "lts"])
def test_no_more_than_those_in_flight_are_open_once_it_has_begun(algorithm: AlgorithmName) -> None:
    search = search_by(algorithm, evaluations=40, lag=2)
    outstanding: list[Submodel] = []
    for _ in range(30):
        asked = ask_all(search)
        outstanding += asked[1:]
        for each in [*asked[:1], *outstanding[:-2]]:
            search.tell(each, result_of(each))
        outstanding = outstanding[-2:]
    assert len(outstanding + ask_all(search)) <= 3


@every_algorithm
def test_failures_are_lived_with(algorithm: AlgorithmName) -> None:
    search = search_by(algorithm, evaluations=30)
    while (candidate := search.ask()) is not None:
        failed = sum(candidate.widths) % 3 == 0
        search.tell(candidate, Failed(reason="odd") if failed else result_of(candidate))
    assert len(search.results) == 30


@every_algorithm
def test_all_failing_ends(algorithm: AlgorithmName) -> None:
    search = search_by(algorithm, evaluations=25)
    while (candidate := search.ask()) is not None:
        search.tell(candidate, Failed(reason="all"))
    assert len(search.results) == 25
    assert not search.front(TARGETS[0])


@every_algorithm
def test_a_small_space_is_searched_whole_and_then_declared_exhausted(algorithm: AlgorithmName) -> None:
    search = search_by(algorithm, config=replace(CONFIG, widths=(16, 16)), evaluations=100)
    assert len(run(search)) == 64
    assert search.is_exhausted


@every_algorithm
def test_candidates_with_too_many_parameters_are_never_asked_for(algorithm: AlgorithmName) -> None:
    space = MixNMatch(CONFIG)
    middle = space.decoder_params(CONFIG.trained["L"])
    asked = run(search_by(algorithm, evaluations=20, limits=Limits(max_decoder_params=middle)))
    assert len(asked) == 20
    assert all(space.decoder_params(each) <= middle for each in asked)


def test_limits_that_admit_nothing_are_one_clear_line() -> None:
    with pytest.raises(LtsRayError, match=r"keeps the limits on decoder parameters \(1 to 2\): widen them"):
        run(search_by("lts", limits=Limits(min_decoder_params=1, max_decoder_params=2)))


def test_the_surrogate_finds_more_than_evolution_and_evolution_more_than_chance() -> None:
    """Means over five seeds on a front that is known to be found by neither in 60 evaluations."""
    means = {}
    for algorithm in ("surrogate", "lts", "random"):
        runs = [run(search_by(algorithm, seed=seed)) for seed in range(5)]  # type: ignore[arg-type]
        means[algorithm] = [[result_of(each)["slow"] for each in found] for found in runs]
    bounds = bounds_of([vector for runs in means.values() for found in runs for vector in found])
    shares = {name: np.mean([relative_hypervolume(found, bounds) for found in runs]) for name, runs in means.items()}
    assert shares["surrogate"] > shares["lts"] > shares["random"]


def test_what_a_target_does_not_admit_is_on_no_front_but_is_a_result() -> None:
    search = search_by("lts")
    limited = AskTell(
        search.algorithm,
        targets=TARGETS,
        evaluations=60,
        admits=lambda _candidate, target, vector: target != "slow" or vector[1] < 3,
    )
    run(limited)
    assert all(vector[1] < 3 for vector in limited.front("slow").values())
    assert any(vector[1] >= 3 for vector in limited.front("fast").values())
    assert len(limited.results) == 60


def test_the_joint_front_holds_every_target_s_front_whose_vectors_are_unique() -> None:
    search = search_by("lts")
    run(search)
    joint = search.joint_front()
    for target in TARGETS:
        front = search.front(target)
        unique = [each for each, vector in front.items() if list(front.values()).count(vector) == 1]
        assert set(unique) <= set(joint)
    assert {len(vector) for vector in joint.values()} == {1 + 3 * len(TARGETS)}


def test_a_surrogate_says_how_sure_it_was_of_what_it_chose() -> None:
    """Costs follow a law without noise, so predictions are close; loss, latencies and memory each have a figure."""
    search = search_by("surrogate")
    run(search)
    assert isinstance(search.algorithm, Surrogate)
    sureness = search.algorithm.sureness
    assert [each.objective for each in sureness] == [0, 1, 2, 3]
    assert all(each.mean_error < 0.05 and each.within_95 > 0.5 for each in sureness)


def test_predictions_need_a_space_of_backbones() -> None:
    with pytest.raises(LtsRayError, match="needs a space of backbones"):
        search_by("predicted")
