"""Which replica a request goes to, against what each replica's own policy says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.policies.admission import Choice, judge, on_admission
from serve.policies.budget import Budget
from serve.policies.deadline import DeadlinePolicy
from serve.policies.forecast import Forecast
from serve.policies.policy import Job, Situation
from serve.policies.request import Request
from serve.routing.budget_router import ASKED, BudgetRouter, smallest_feasible
from serve.routing.replica_view import ReplicaView
from tests.serve.policies.situations import (
    FLAT,
    MENU,
    RISING,
    L,
    budgets,
    pins,
    running_job,
    situation_of,
    situations,
)


def view(id: str, *, slowness: float = 1.0, running: int = 0, cost: float = 1.0, kind: str = "cpu") -> ReplicaView:
    jobs = tuple(running_job(place, budget=Budget(e2e_ms=1e5), option=L) for place in range(running))
    return ReplicaView(
        id=id, kind=kind, cost=cost, menu=MENU, costs=FLAT.scaled(slowness), situation=situation_of(running=jobs)
    )


def asking(e2e_ms: float | None = None, **fields: object) -> Request:
    return Request(prompt=(1,) * 4, max_tokens=10, budget=Budget(e2e_ms=e2e_ms), **fields)


def chosen(request: Request, *views: ReplicaView, shared: dict[str, int] | None = None) -> tuple[str, str | None]:
    route = BudgetRouter().route(request, views, shared=shared or {}, now_ms=0.0)
    return route.replica, route.submodel


def test_a_budget_goes_where_the_widest_submodel_keeps_it() -> None:
    slow, fast = view("slow", slowness=4), view("fast")
    assert chosen(asking(240), slow, fast) == ("fast", "XL")
    assert chosen(asking(1_000), slow, fast)[1] == "XL"


def test_among_equals_the_cheapest_then_the_warmest_then_the_idlest() -> None:
    assert chosen(asking(1e6), view("dear", cost=3), view("cheap"))[0] == "cheap"
    assert chosen(asking(1e6), view("cold"), view("warm"), shared={"warm": 3})[0] == "warm"
    assert chosen(asking(1e6), view("busy", running=2), view("idle"))[0] == "idle"


def test_a_budget_of_which_nothing_is_left_goes_where_it_ends_soonest() -> None:
    assert chosen(asking(0.0), view("slow", slowness=3), view("fast"))[0] == "fast"


def test_a_budget_that_nothing_keeps_goes_where_it_ends_soonest() -> None:
    route = BudgetRouter().route(asking(1), [view("slow", slowness=3), view("fast")], shared={}, now_ms=0.0)
    assert (route.replica, route.met) == ("fast", False)


def test_without_a_budget_the_universal_model_runs_where_it_ends_soonest_and_takes_no_budget_away() -> None:
    assert chosen(asking(), view("slow", slowness=3), view("fast")) == ("fast", "XL")
    tight = running_job(1, budget=Budget(e2e_ms=60.0), option=L)  # ten tokens: 6 ms each, and XL takes 20.2
    held = ReplicaView(id="held", kind="cpu", cost=1, menu=MENU, costs=FLAT, situation=situation_of(running=(tight,)))
    assert chosen(asking(), held, view("slow", slowness=3))[0] == "slow"


def said_by(views: Sequence[ReplicaView], request: Request, now_ms: float = 0.0) -> list[Choice]:
    """What each replica's own policy says."""
    job = Job(id=-1, request=request, arrived_ms=now_ms)
    return [judge(one.situation, job, one.menu, one.costs, DeadlinePolicy()) for one in views]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.5, 4), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=6),
    st.floats(20, 2_000),
)
def test_the_best_quality_that_any_policy_has_for_the_budget_is_chosen_from_the_cheapest(
    nodes: list[tuple[float, int, int]], budget_ms: float
) -> None:
    views = [
        view(str(place), slowness=slowness, running=running, cost=cost)
        for place, (slowness, running, cost) in enumerate(nodes)
    ]
    request = asking(budget_ms)
    route = BudgetRouter().route(request, views, shared={}, now_ms=0.0)
    kept = [
        (choice.option.shortfall, one.cost, one.load, one.id)
        for choice, one in zip(said_by(views, request), views, strict=True)
        if choice.met
    ]
    assert route.met == bool(kept)
    if kept:
        assert (route.loss, *next(one[1:] for one in kept if one[3] == route.replica))[:3] == min(kept)[:3]


requests = st.builds(
    Request,
    prompt=st.integers(1, 60).map(lambda length: (1,) * length),
    max_tokens=st.integers(1, 30),
    budget=budgets.filter(bool),
    pinned=pins,
)


@st.composite
def fleets(draw: st.DrawFn) -> list[ReplicaView]:
    return [
        ReplicaView(
            id=str(place),
            kind="cpu",
            cost=1.0,
            menu=MENU,
            costs=draw(st.sampled_from([FLAT, RISING])).scaled(draw(st.floats(0.1, 2))),
            situation=replace(draw(situations()), now_ms=1000.0),
        )
        for place in range(draw(st.integers(1, 5)))
    ]


@settings(max_examples=120, deadline=None)
@given(fleets(), requests)
def test_whatever_the_replicas_do_a_budget_is_kept_where_any_policy_keeps_it(
    views: list[ReplicaView], request: Request
) -> None:
    said = said_by(views, request, 1000.0)
    route = BudgetRouter().route(request, views, shared={}, now_ms=1000.0)
    kept = [choice.option.shortfall for choice in said if choice.met]
    assert route.met == bool(kept)
    asked = [one.loss for one in (route, *route.others) if one.met and one.loss is not None]
    assert not kept or route.loss == min(asked)


def kept_of(forecast: Forecast, situation: Situation) -> set[int]:
    """The admitted jobs whose budgets the policy is likelier to keep than not."""
    odds = forecast.odds(situation.deviation, hopeless=DeadlinePolicy().thresholds.hopeless)[-1]
    admitted = {job.id for job in situation.jobs if job.bounded}
    return {job.id for job, chance in zip(forecast.jobs, odds, strict=True) if job.id in admitted and chance >= 0.5}


@settings(max_examples=60, deadline=None)
@given(fleets().filter(lambda views: len(views) <= ASKED), st.integers(1, 60), st.integers(1, 30))
def test_without_a_budget_no_admitted_one_is_lost_where_a_replica_loses_none(
    views: list[ReplicaView], prompt: int, max_tokens: int
) -> None:
    request = Request(prompt=(1,) * prompt, max_tokens=max_tokens)
    harmless = set()
    for one, said in zip(views, said_by(views, request, 1000.0), strict=True):
        before = on_admission(one.situation, {}, MENU, one.costs, DeadlinePolicy())
        if kept_of(before, one.situation) <= kept_of(said.forecast, one.situation):
            harmless.add(one.id)
    route = BudgetRouter().route(request, views, shared={}, now_ms=1000.0)
    assert (route.submodel, route.met) == ("XL", None)
    assert not harmless or route.replica in harmless


def test_the_smallest_feasible_budget_is_that_of_the_best_replica_and_is_kept_there() -> None:
    slow, fast = view("slow", slowness=3), view("fast", slowness=2)
    request = asking(1.0, strict=True)
    bounds = smallest_feasible(request, [slow, fast], now_ms=0.0)
    assert smallest_feasible(asking(0.0, strict=True), [slow, fast], now_ms=0.0) == bounds
    assert list(bounds) == ["e2e"]
    again = BudgetRouter().route(asking(bounds["e2e"]), [slow, fast], shared={}, now_ms=0.0)
    assert (again.replica, again.met) == ("fast", True)
    assert BudgetRouter().route(asking(bounds["e2e"] * 0.99), [slow, fast], shared={}, now_ms=0.0).met is False
