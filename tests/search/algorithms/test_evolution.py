from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.measurement.measurement import Failed
from lts_ray.pareto import bounds_of, relative_hypervolume
from lts_ray.search.algorithms.ask_tell import AskTell
from lts_ray.search.algorithms.search_settings import EvolutionSettings
from lts_ray.spaces.mix_n_match import MixNMatch
from lts_ray.submodel import Submodel
from tests.conftest import ROOT
from tests.search.helpers import CONFIG, TARGETS, ask_all, evolution, result_of
from tests.test_pareto import brute_force


def run(search: AskTell[Submodel], *, order: np.random.Generator | None = None) -> list[Submodel]:
    """All candidates, in the order they were asked; told in a random order where one is given."""
    asked: list[Submodel] = []
    while not search.is_finished:
        generation = ask_all(search)
        asked += generation
        told = list(generation)
        if order is not None:
            order.shuffle(told)  # type: ignore[arg-type]
        for each in told:
            search.tell(each, result_of(each))
    return asked


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_candidate_is_asked_twice_and_all_are_in_the_space(seed: int) -> None:
    asked = run(evolution(seed=seed))
    assert len(asked) == len(set(asked)) == 60
    assert all(MixNMatch(CONFIG).contains(each) for each in asked)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_front_is_the_brute_force_front_of_everything_evaluated(seed: int) -> None:
    """Also of the last generation's children, which LTS's own code left out."""
    search = evolution(seed=seed)
    asked = run(search)
    for target in TARGETS:
        vectors = [result_of(each)[target] for each in asked]
        assert set(search.front(target)) == {asked[index] for index in brute_force(vectors)}


@pytest.mark.parametrize("order", range(4))
def test_the_order_in_which_results_arrive_changes_nothing(order: int) -> None:
    plain, shuffled = evolution(), evolution()
    assert run(plain) == run(shuffled, order=np.random.default_rng(order))
    assert set(plain.front("slow")) == set(shuffled.front("slow"))


def test_the_granularities_are_asked_for_first() -> None:
    assert ask_all(evolution())[:4] == [CONFIG.trained[name] for name in ("XL", "L", "M", "S")]


def test_it_waits_for_a_generation_and_then_goes_on() -> None:
    search = evolution()
    first = ask_all(search)
    assert len(first) == 12
    assert not search.is_finished
    for each in first[:-1]:
        search.tell(each, result_of(each))
    assert search.ask() is None
    search.tell(first[-1], result_of(first[-1]))
    assert len(ask_all(search)) == 10


def test_a_second_result_for_a_candidate_is_ignored() -> None:
    search = evolution()
    candidate = ask_all(search)[0]
    search.tell(candidate, result_of(candidate))
    search.tell(candidate, Failed(reason="late"))
    assert search.results[candidate] == result_of(candidate)


def test_a_result_that_was_not_asked_for_is_an_error() -> None:
    with pytest.raises(LtsRayError, match="did not ask for"):
        evolution().tell(Submodel((8, 8, 8, 8)), Failed(reason="x"))


def test_a_result_must_have_every_target() -> None:
    search = evolution()
    candidate = ask_all(search)[0]
    with pytest.raises(LtsRayError, match="needs objectives for slow, fast; got slow"):
        search.tell(candidate, {"slow": (1.0, 1.0)})


def test_failed_candidates_are_never_on_a_front_and_all_failing_still_ends() -> None:
    search = evolution()
    while not search.is_finished:
        for index, each in enumerate(ask_all(search)):
            search.tell(each, Failed(reason="odd") if index % 2 else result_of(each))
    failed = {each for each, result in search.results.items() if isinstance(result, Failed)}
    assert failed
    assert all(failed.isdisjoint(search.front(target)) for target in TARGETS)
    hopeless = evolution(evaluations=30)
    while not hopeless.is_finished:
        for each in ask_all(hopeless):
            hopeless.tell(each, Failed(reason="all"))
    assert len(hopeless.results) == 30
    assert not hopeless.front("slow")


def test_a_small_space_is_searched_whole_and_then_declared_exhausted() -> None:
    search = evolution(config=replace(CONFIG, widths=(64, 64)), evaluations=1000)
    asked = run(search)
    assert len(asked) == 64
    assert search.is_exhausted


def test_fewer_evaluations_than_a_population_end_after_them() -> None:
    search = evolution(evaluations=5)
    assert len(run(search)) == 5
    assert not search.is_exhausted


def test_evolution_beats_random_search() -> None:
    """A coarse check that selection helps: 150 evolved candidates against 150 random ones, over five seeds."""
    gains = []
    for seed in range(5):
        evolved = [result_of(each)["slow"] for each in run(evolution(seed=seed, evaluations=150))]
        space, rng = MixNMatch(CONFIG), np.random.default_rng(seed)
        random = [result_of(each)["slow"] for each in {space.sample(rng): None for _ in range(150)}]
        bounds = bounds_of(evolved + random)
        gains.append(relative_hypervolume(evolved, bounds) - relative_hypervolume(random, bounds))
    assert sum(gains) > 0


def test_three_processes_with_other_string_hashes_ask_the_same() -> None:
    code = (
        "import json\nfrom tests.search.helpers import evolution\n"
        "from tests.search.algorithms.test_evolution import run\n"
        "print(json.dumps([list(each.widths) for each in run(evolution(seed=3, evaluations=40))]))"
    )
    root = ROOT
    sequences = [json.dumps([list(each.widths) for each in run(evolution(seed=3, evaluations=40))]) + "\n"]
    sequences += [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "4321")
    ]
    assert len(json.loads(sequences[0])) == 40
    assert sequences[0] == sequences[1] == sequences[2]


@pytest.mark.parametrize("evaluations", [1, 30, 60, 200, 600, 5000])
def test_scaled_settings_leave_room_for_generations(evaluations: int) -> None:
    scaled = EvolutionSettings.scaled_to(evaluations)
    assert scaled.population <= 100
    assert evaluations < 60 or evaluations >= 6 * scaled.population
    assert evaluations < 600 or scaled == EvolutionSettings()
