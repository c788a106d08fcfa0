from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.load.local_model import LoadCapacity
from benchmarks.load.saturation import saturation_rate
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.fixed import FixedPolicy
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.budget_classes import BudgetClasses, Need
from serve.traffic.load import draw_lengths, make_load
from serve.traffic.traces import poisson
from tests.serve.models import tiny_menu

A_MILLISECOND = StepCosts(grid=(1, 2), base=(1.0, 1.0), neuron=(0.0, 0.0), head=(0.0, 0.0), attended=0.0)
BY_WIDTH = StepCosts(grid=(1, 65), base=(0.1, 0.74), neuron=(0.01, 0.02), head=(0.1, 0.1), attended=1e-4)


def taking(slots: int, chunk_tokens: int) -> LoadCapacity:
    return LoadCapacity(context_length=64, slots=slots, chunk_tokens=chunk_tokens)


CAPACITY = taking(4, 64)


def test_one_place_bears_a_request_for_as_many_steps_as_it_has_tokens() -> None:
    """Steps take a millisecond whatever is in them, and a prompt's last step makes the first token."""
    lengths = draw_lengths(400, np.random.default_rng(0), context_length=64)
    found = saturation_rate(tiny_menu(), A_MILLISECOND, capacity=taking(1, 64))
    assert found == pytest.approx(1000 / np.mean(lengths[:, 1]), rel=0.01)


def test_places_work_side_by_side() -> None:
    """Four of them bear four times as much where a step's cost is the same: prompts share steps with responses."""
    one = saturation_rate(tiny_menu(), A_MILLISECOND, capacity=taking(1, 256))
    four = saturation_rate(tiny_menu(), A_MILLISECOND, capacity=taking(4, 256))
    assert four == pytest.approx(4 * one, rel=0.02)


def test_a_narrower_submodel_bears_more() -> None:
    menu = tiny_menu()
    narrow = replace(menu, universal=menu.narrowest)
    universal = saturation_rate(menu, BY_WIDTH, capacity=CAPACITY, requests=100)
    assert saturation_rate(narrow, BY_WIDTH, capacity=CAPACITY, requests=100) > 1.5 * universal
    assert saturation_rate(menu, BY_WIDTH.scaled(2.0), capacity=CAPACITY, requests=100) == pytest.approx(universal / 2)


@pytest.mark.parametrize(("load", "rejected"), [(0.85, (0.0, 0.01)), (1.6, (0.2, 0.4))], ids=["below", "above"])
def test_the_queue_is_bounded_below_the_rate_and_not_above(load: float, rejected: tuple[float, float]) -> None:
    """Above it, all beyond the rate is rejected in the long run: three eighths at 1.6, less what the queue takes."""
    menu, capacity = tiny_menu(), CAPACITY
    rate = load * saturation_rate(menu, BY_WIDTH, capacity=capacity)
    arrivals = make_load(
        poisson,
        rate=rate,
        seconds=500 / rate,
        seed=1,
        need=Need(costs=BY_WIDTH, neurons=menu.universal.neurons, chunk_tokens=capacity.chunk_tokens),
        context_length=64,
        classes=BudgetClasses(),
    )
    node = SimulatedReplica(menu=menu, costs=BY_WIDTH, capacity=replace(capacity, max_queue=40))
    outcomes = simulate(arrivals, node=node, policy=FixedPolicy(), rng=np.random.default_rng(0))
    low, high = rejected
    assert low <= np.mean([each.status == "rejected" for each in outcomes]) <= high


def test_limits_that_no_engine_can_have_are_refused() -> None:
    with pytest.raises(LtsRayError, match=r"capacity\.max_queue must be at least 1; got 0"):
        LoadCapacity(context_length=64, max_queue=0)
    with pytest.raises(LtsRayError, match=r"chunk_tokens must be at least the 8 requests .*; got 7"):
        LoadCapacity(context_length=64, chunk_tokens=7)
    assert LoadCapacity(context_length=65, slots=3).n_blocks == 18
