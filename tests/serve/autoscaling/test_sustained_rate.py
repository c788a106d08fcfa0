"""What a replica is said to bear, against what the simulator makes of such a load."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lts_ray.runtime.step_costs import Group
from serve.autoscaling.sustained_rate import RecentRequest, sustained_rate
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.capacity import Capacity
from serve.policies.deadline import DeadlinePolicy
from serve.policies.deviation import NO_DEVIATION
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses, Need
from serve.traffic.load import make_load
from serve.traffic.traces import trace_named
from tests.serve.models import COSTS, tiny_menu

MENU, CAPACITY = tiny_menu(), Capacity(slots=4, max_queue=32, chunk_tokens=32)
NEED = Need(costs=COSTS, option=MENU.universal, chunk_tokens=CAPACITY.chunk_tokens)


def load(rate: float, seconds: float, *, trace: str = "poisson", seed: int = 0) -> tuple[Arrival, ...]:
    return make_load(
        trace_named(trace),
        rate=rate,
        seconds=seconds,
        seed=seed,
        need=NEED,
        context_length=96,
        classes=BudgetClasses(),
    )


def recent(arrivals: tuple[Arrival, ...]) -> list[RecentRequest]:
    return [RecentRequest(each.prompt_tokens, each.output_tokens, each.budget) for each in arrivals]


def borne(requests: list[RecentRequest], **other: Any) -> float:
    given: dict[str, Any] = {
        "menu": MENU,
        "costs": COSTS,
        "deviation": NO_DEVIATION,
        "capacity": CAPACITY,
        "worst_loss": None,
        "attainment": 0.99,
    }
    return sustained_rate(requests, **(given | other))


def kept(rate: float, trace: str) -> float:
    node = SimulatedReplica(menu=MENU, costs=COSTS, noise=0.05, attainment=0.99, capacity=CAPACITY)
    outcomes = simulate(
        load(rate, 250 / rate, trace=trace, seed=1), node=node, policy=DeadlinePolicy(), rng=np.random.default_rng(0)
    )
    return float(np.mean([outcome.met for outcome in outcomes if outcome.budget]))


@pytest.mark.parametrize(("trace", "cv2"), [("poisson", 1.0), ("gamma-4", 4.0)])
def test_the_simulator_keeps_the_wanted_share_at_that_rate_and_not_much_above(trace: str, cv2: float) -> None:
    rate = borne(recent(load(1.0, 200)), cv2=cv2)
    assert kept(rate, trace) > 0.97
    assert kept(1.5 * rate, trace) < 0.97


@pytest.mark.filterwarnings("error")  # a rate of 0 is not tried
def test_nothing_known_is_nothing_borne_and_neither_is_what_no_width_keeps() -> None:
    assert borne([]) == 0
    assert borne([RecentRequest(8, 8, Budget(e2e_ms=1.0))] * 9) == 0


def test_less_quality_and_a_faster_node_bear_more() -> None:
    requests = recent(load(1.0, 200))
    by_quality = [borne(requests, worst_loss=worst) for worst in (1.0, 1.3, 1.8, None)]
    assert by_quality == sorted(by_quality)
    assert by_quality[0] < by_quality[-1]
    assert borne(requests, costs=COSTS.scaled(0.5)) >= 2 * borne(requests)


def test_without_budgets_it_is_what_the_universal_model_bears() -> None:
    free = [RecentRequest(1, 10, NO_BUDGET)] * 4
    step_ms = COSTS.step_ms([Group(MENU.universal.neurons, 4, 0, 4)])
    assert 0.7 < borne(free) / (1e3 * 4 / 10 / step_ms) < 1
