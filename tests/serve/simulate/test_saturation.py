from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.capacity import Capacity
from serve.policies.fixed import FixedPolicy
from serve.policies.menu import Menu
from serve.simulate.saturation import saturation_rate
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.budget_classes import BudgetClasses, Need
from serve.traffic.load import draw_lengths, make_load
from serve.traffic.traces import poisson
from tests.serve.models import tiny_menu

A_MILLISECOND = StepCosts(grid=(1, 2), base=(1.0, 1.0), neuron=(0.0, 0.0), head=(0.0, 0.0), attended=0.0)
BY_WIDTH = StepCosts(grid=(1, 65), base=(0.1, 0.74), neuron=(0.01, 0.02), head=(0.1, 0.1), attended=1e-4)


CAPACITY = Capacity(slots=4, chunk_tokens=64)


def found(
    costs: StepCosts, *, slots: int = 4, chunk_tokens: int = 64, menu: Menu | None = None, requests: int = 400
) -> float:
    capacity = Capacity(slots=slots, chunk_tokens=chunk_tokens)
    return saturation_rate(menu or tiny_menu(), costs, capacity=capacity, context_length=64, requests=requests)


def test_one_place_bears_a_request_for_as_many_steps_as_it_has_tokens() -> None:
    """Steps take a millisecond whatever is in them, and a prompt's last step makes the first token."""
    lengths = draw_lengths(400, np.random.default_rng(0), context_length=64)
    assert found(A_MILLISECOND, slots=1) == pytest.approx(1000 / np.mean(lengths[:, 1]), rel=0.01)


def test_places_work_side_by_side() -> None:
    """Four of them bear four times as much where a step's cost is the same: prompts share steps with responses."""
    one = found(A_MILLISECOND, slots=1, chunk_tokens=256)
    four = found(A_MILLISECOND, slots=4, chunk_tokens=256)
    assert four == pytest.approx(4 * one, rel=0.02)


def test_a_narrower_submodel_bears_more() -> None:
    menu = tiny_menu()
    narrow = replace(menu, universal=menu.narrowest)
    universal = found(BY_WIDTH, requests=100)
    assert found(BY_WIDTH, menu=narrow, requests=100) > 1.5 * universal
    assert found(BY_WIDTH.scaled(2.0), requests=100) == pytest.approx(universal / 2)


@pytest.mark.parametrize(("load", "rejected"), [(0.85, (0.0, 0.01)), (1.6, (0.2, 0.4))], ids=["below", "above"])
def test_the_queue_is_bounded_below_the_rate_and_not_above(load: float, rejected: tuple[float, float]) -> None:
    """Above it, all beyond the rate is rejected in the long run: three eighths at 1.6, less what the queue takes."""
    menu, capacity = tiny_menu(), CAPACITY
    rate = load * found(BY_WIDTH)
    arrivals = make_load(
        poisson,
        rate=rate,
        seconds=500 / rate,
        seed=1,
        need=Need(costs=BY_WIDTH, option=menu.universal, chunk_tokens=capacity.chunk_tokens),
        context_length=64,
        classes=BudgetClasses(),
    )
    node = SimulatedReplica(menu=menu, costs=BY_WIDTH, capacity=replace(capacity, max_queue=40))
    outcomes = simulate(arrivals, node=node, policy=FixedPolicy(), rng=np.random.default_rng(0))
    low, high = rejected
    assert low <= np.mean([each.status == "rejected" for each in outcomes]) <= high
