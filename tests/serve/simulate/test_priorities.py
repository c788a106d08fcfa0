"""Priorities under load, in simulated time: the lower number is in time, and the higher one still has its turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.capacity import Capacity
from serve.policies.deadline import DeadlinePolicy, Thresholds
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.arrival import Arrival
from tests.serve.simulate.test_simulate import FLAT, MENU

SLOTS, QUEUE, TOKENS = 2, 4, 3
PATIENCE_MS = 100.0
LONGEST_MS = 4 * 20.2 * (TOKENS + 1)
"""Of a response: at the widest, in every fourth step."""
EVERY_MS = 3.0
"""More than the node can do even at the narrowest."""
BUDGETS = (NO_BUDGET, Budget(ttft_ms=150), Budget(e2e_ms=1e4), Budget(tpot_ms=50), Budget(ttft_ms=1))


def arrival(at_ms: float, budget: Budget, priority: int = 0, *, tokens: int = TOKENS) -> Arrival:
    return Arrival(at_ms=at_ms, prompt_tokens=4, output_tokens=tokens, budget=budget, klass="some", priority=priority)


def served(arrivals: list[Arrival], *, queue: int, patience_ms: float = 1e5) -> tuple[Outcome, ...]:
    policy = DeadlinePolicy(thresholds=Thresholds(unbudgeted_ms=patience_ms, late_ms=patience_ms))
    node = SimulatedReplica(menu=MENU, costs=FLAT, capacity=Capacity(slots=SLOTS, max_queue=queue, chunk_tokens=16))
    return simulate(arrivals, node=node, policy=policy, rng=np.random.default_rng(0))


def kept(outcomes: tuple[Outcome, ...], priority: int) -> float:
    of_it = [outcome for outcome in outcomes if outcome.arrival.priority == priority]
    return sum(bool(outcome.met) for outcome in of_it) / len(of_it)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (-3, 7)])
def test_in_an_overload_the_lower_number_is_in_time_and_the_other_is_not(numbers: tuple[int, int]) -> None:
    """Twice what the node can do at its fastest, of which half has the lower number."""
    budget, every_ms = Budget(e2e_ms=40), 3.4 * TOKENS / SLOTS / 2
    load = [arrival(place * every_ms, budget, numbers[place % 2]) for place in range(400)]
    outcomes = served(load, queue=len(load))
    lower, higher = kept(outcomes, min(numbers)), kept(outcomes, max(numbers))
    alike = served([arrival(each.at_ms, budget) for each in load], queue=len(load))
    assert lower > 2 * higher
    assert lower > kept(alike, 0) + 0.1


@settings(max_examples=8)
@example([NO_BUDGET], [NO_BUDGET] * 4)
@example([Budget(ttft_ms=1)], [Budget(ttft_ms=1)] * 4)
@given(
    st.lists(st.sampled_from(BUDGETS), min_size=1, max_size=5),
    st.lists(st.sampled_from(BUDGETS), min_size=1, max_size=QUEUE),
)
def test_none_waits_for_ever_whatever_comes_after_it(stream: list[Budget], patient: list[Budget]) -> None:
    """More than the node can do, of the lower number, without end: those of the higher one have their turn."""
    limit_ms = PATIENCE_MS + (QUEUE + SLOTS + 1) * LONGEST_MS
    waiting = [arrival(0.0, budget, priority=9, tokens=1 + place % TOKENS) for place, budget in enumerate(patient)]
    endless = [
        arrival(EVERY_MS * place, stream[place % len(stream)], tokens=1 + place % TOKENS)
        for place in range(int(1.2 * limit_ms / EVERY_MS))
    ]
    outcomes = served([*waiting, *endless], queue=QUEUE, patience_ms=PATIENCE_MS)
    for outcome in outcomes[: len(waiting)]:
        assert outcome.timing is not None
        assert outcome.timing.ttft_ms <= limit_ms
