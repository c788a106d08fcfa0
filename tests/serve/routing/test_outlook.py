"""The least that a request would take, against what policies foresee."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lts_ray.runtime.step_costs import StepCosts
from serve.policies import compiled
from serve.policies.budget import KINDS, Budget
from serve.policies.deadline import DeadlinePolicy
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Situation
from serve.policies.request import Request
from serve.routing.budget_router import _best
from serve.routing.outlook import Outlook
from serve.routing.replica_view import ReplicaView
from tests.serve.policies.situations import (
    FLAT,
    MENU,
    MIXED,
    PLANES,
    RISING,
    XL,
    S,
    running_job,
    situation_of,
    situations,
)
from tests.serve.policies.twins import any_budgets, any_costs, any_situations, both

EASY = Budget(e2e_ms=1e7)


def foreseen(situation: Situation, request: Request, costs: StepCosts, place: int, menu: Menu = MENU) -> object:
    """With all elastic rows at the option with index `place`."""
    joined = Situation(
        now_ms=situation.now_ms,
        running=situation.running,
        waiting=(*situation.waiting, Job(id=-1, request=request, arrived_ms=situation.now_ms)),
        capacity=situation.capacity,
    )
    return DeadlinePolicy(span=(place, place + 1)).foresee(joined, menu, costs)[1].timing(-1)


def at_once(situation: Situation, request: Request) -> bool:
    """Whether its prompt is read in the next step, so that it is known beside which rows its tokens come."""
    rows, capacity = len(situation.running), situation.capacity
    free = not situation.waiting and rows < capacity.slots and all(job.decodes for job in situation.running)
    return free and rows + len(request.prompt) <= capacity.chunk_tokens and request.max_tokens > 1


@settings(max_examples=150, deadline=None)
@given(
    situations(),
    st.sampled_from([FLAT, RISING]),
    st.integers(1, 60),
    st.integers(1, 30),
    st.integers(0, 3),
    st.sampled_from([None, None, S, XL]),
    st.booleans(),
)
def test_it_is_never_more_than_what_a_policy_foresees(
    situation: Situation,
    costs: StepCosts,
    prompt: int,
    max_tokens: int,
    place: int,
    option: Option | None,
    bounded: bool,
) -> None:
    outlook = Outlook.of(situation, MENU, costs)
    assume(not outlook.may_hold)
    request = Request(
        prompt=(1,) * prompt,
        max_tokens=max_tokens,
        budget=EASY if bounded or option is None else Budget(),
        pinned=option,
    )
    least = outlook.least(request, option=option).at(MENU.elastic[place].neurons)
    timing = foreseen(situation, request, costs, place)
    for kind in KINDS if at_once(situation, request) else ("ttft", "e2e"):
        assert getattr(least, f"{kind}_ms") <= getattr(timing, f"{kind}_ms") * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(
    situations(),
    st.integers(1, 60),
    st.integers(1, 30),
    st.integers(0, len(MIXED.elastic) - 1),
    st.sampled_from([None, None, *MIXED.options]),
)
def test_so_it_is_of_what_the_new_one_reads_where_rows_are_of_several_precisions(
    situation: Situation, prompt: int, max_tokens: int, place: int, option: Option | None
) -> None:
    planes = MIXED.elastic[place].planes if option is None else option.planes
    menu = MIXED.by_width if option else MIXED.by_planes[planes]
    apart = option is not None and any(planes & ~each.planes for each in MIXED.elastic)
    outlook = Outlook.of(situation, menu, PLANES.of_planes(planes), planes=planes, apart=apart)
    assume(not outlook.may_hold)
    request = Request(prompt=(1,) * prompt, max_tokens=max_tokens, budget=EASY, pinned=option)
    least = outlook.least(request, option=option).at(MIXED.elastic[place].neurons)
    timing = foreseen(situation, request, PLANES, place, MIXED)
    for kind in KINDS if at_once(situation, request) else ("ttft", "e2e"):
        assert getattr(least, f"{kind}_ms") <= getattr(timing, f"{kind}_ms") * (1 + 1e-9)


@pytest.mark.parametrize("running", [0, 3])
@pytest.mark.parametrize("place", range(4))
def test_it_is_nearly_what_a_policy_foresees_while_none_waits(running: int, place: int) -> None:
    jobs = tuple(running_job(number, budget=EASY, remaining=5 + 20 * number) for number in range(running))
    situation = situation_of(running=jobs, slots=8, chunk=32)
    request = Request(prompt=(1,) * 20, max_tokens=30, budget=EASY)
    least = Outlook.of(situation, MENU, RISING).least(request).at(MENU.elastic[place].neurons)
    timing = foreseen(situation, request, RISING, place)
    assert least.ttft_ms == pytest.approx(timing.ttft_ms, rel=0.03)
    assert least.e2e_ms == pytest.approx(timing.e2e_ms, rel=0.03)


def any_request(max_tokens: int, budget: Budget, pinned: Option | None) -> Request:
    return Request(prompt=(1,) * 30, max_tokens=max_tokens, budget=budget, pinned=pinned)


@pytest.mark.skipif(compiled.decision is None, reason="nothing was compiled here")
@settings(max_examples=300, deadline=None)
@given(
    any_situations(),
    any_costs,
    st.builds(any_request, st.integers(1, 40), any_budgets, st.sampled_from([None, None, S, *MIXED.options])),
    st.integers(0, 29),
    st.sampled_from([MENU, MIXED]),
)
def test_what_was_compiled_ranks_a_replica_as_python_does(
    situation: Situation, costs: StepCosts, request: Request, shared: int, menu: Menu
) -> None:
    view = ReplicaView(id="a", kind="cpu", cost=1.0, menu=menu, costs=costs, situation=situation)
    fast, slow = both(lambda: _best(request, view, shared, situation.now_ms))
    assert fast == pytest.approx(slow, rel=1e-9, abs=1e-9)
