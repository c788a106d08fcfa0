"""The policies that the deadline policy is compared with, and their names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.deadline import DeadlinePolicy
from serve.policies.fixed import FixedPolicy, own_option
from serve.policies.idle_feasible import IdleFeasiblePolicy
from serve.policies.named_policies import POLICIES, policy_named
from serve.policies.policy import Policy, Situation
from serve.policies.slackfit import SlackFitPolicy
from serve.policies.smallest import SmallestPolicy
from tests.serve.policies.situations import (
    FLAT,
    MENU,
    RISING,
    XL,
    L,
    M,
    S,
    running_job,
    situation_of,
    situations,
    waiting_job,
    with_budget,
)

ANY = Budget(e2e_ms=1e6)
EMPTY = situation_of()


@given(situations(), st.sampled_from(sorted(POLICIES)))
def test_every_policy_says_something_for_everybody_and_narrows_only_whom_it_may(
    situation: Situation, name: str
) -> None:
    plan = policy_named(name).plan(situation, MENU, RISING)
    jobs = {job.id: job for job in (*situation.running, *situation.waiting)}
    assert plan.options.keys() == jobs.keys()
    assert sorted(plan.order) == sorted(job.id for job in situation.waiting)
    for id, job in jobs.items():
        assert job.elastic or plan.options[id] == own_option(job, MENU)
    assert situation.running == () or len(plan.held) < len(situation.running)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_can_be_had_by_its_name(name: str) -> None:
    policy: Policy = policy_named(name)
    assert policy.name == name


def test_fixed_and_smallest_run_one_submodel_for_all_that_have_a_budget_in_the_order_of_arrival() -> None:
    waiting = (waiting_job(3, budget=Budget(ttft_ms=900)), waiting_job(4, budget=Budget(ttft_ms=1)), waiting_job(5))
    situation = situation_of(
        running=(running_job(1, budget=ANY), running_job(2, budget=ANY, pinned=M)), waiting=waiting
    )
    for policy, option in ((FixedPolicy(), XL), (FixedPolicy(submodel="L"), L), (SmallestPolicy(), S)):
        plan = policy.plan(situation, MENU, FLAT)
        assert plan.options == {1: option, 2: M, 3: option, 4: option, 5: XL}
        assert plan.order == (3, 4, 5)


def test_a_fixed_submodel_that_is_not_served_is_refused_before_anybody_waits_for_it() -> None:
    with pytest.raises(LtsRayError, match=r"'Q' is not served; there are: S, M, L, XL"):
        policy_named("fixed", submodel="Q").plan(EMPTY, MENU, FLAT)


@pytest.mark.parametrize(
    ("step_ms", "option"), [(30, XL), (20.2, XL), (20.1, L), (10.6, L), (5.8, M), (3.4, S), (1, S)]
)
def test_idle_feasible_takes_the_largest_that_would_be_in_time_alone(step_ms: float, option: object) -> None:
    """A prompt of one step, then nine: e2e is ten steps."""
    job = waiting_job(1, budget=Budget(e2e_ms=10 * step_ms * 1.1 + 1e-6), arrived_ms=500)
    crowd = tuple(running_job(id) for id in (2, 3, 4))
    for running in ((), crowd):
        situation = situation_of(running=running, waiting=(job,), now_ms=2000)
        assert IdleFeasiblePolicy().plan(situation, MENU, FLAT).options[1] == option


def test_idle_feasible_never_changes_what_it_began_with() -> None:
    job = running_job(1, budget=Budget(e2e_ms=1), option=L)
    assert IdleFeasiblePolicy().plan(situation_of(running=(job,)), MENU, FLAT).options == {1: L}


def slackfit(*, slack_ms: float, steps: int, buckets: int) -> object:
    job = running_job(1, budget=Budget(e2e_ms=slack_ms * steps), remaining=steps)
    return SlackFitPolicy(buckets=buckets).plan(situation_of(running=(job,)), MENU, FLAT).options[1]


def test_slackfit_takes_the_bucket_closest_below_the_slack_of_a_step() -> None:
    """Steps take 3.4 to 20.2 ms. With 2 buckets these end at 11.8 and 20.2; with 168, every 0.1 ms."""
    assert slackfit(slack_ms=20.3, steps=10, buckets=2) == XL
    assert slackfit(slack_ms=20.1, steps=10, buckets=2) == L
    assert slackfit(slack_ms=10.7, steps=10, buckets=2) == L  # no bucket is below: the first one
    assert slackfit(slack_ms=10.7, steps=10, buckets=168) == L
    assert slackfit(slack_ms=10.5, steps=10, buckets=168) == M
    assert slackfit(slack_ms=-5, steps=10, buckets=168) == S


def test_slackfit_looks_at_the_earliest_deadline_alone_and_runs_all_at_one_width() -> None:
    early, late = (running_job(id, budget=Budget(e2e_ms=ms), remaining=10) for id, ms in ((1, 60), (2, 1e6)))
    policy = SlackFitPolicy(buckets=168)
    assert policy.plan(situation_of(running=(early, late)), MENU, FLAT).options == {1: M, 2: M}
    assert policy.plan(situation_of(running=(late,)), MENU, FLAT).options == {2: XL}
    waiting = waiting_job(3, budget=Budget(ttft_ms=11), prompt_tokens=16)  # one step
    assert policy.plan(situation_of(running=(late,), waiting=(waiting,)), MENU, FLAT).options == {2: L, 3: L}


def test_slackfit_serves_the_earliest_deadline_first_and_those_without_one_last() -> None:
    waiting = (
        waiting_job(1),
        waiting_job(2, budget=Budget(e2e_ms=500)),
        waiting_job(3, budget=Budget(ttft_ms=400, e2e_ms=900)),
        waiting_job(4, budget=Budget(tpot_ms=1)),
    )
    assert SlackFitPolicy().plan(situation_of(waiting=waiting), MENU, FLAT).order == (3, 2, 1, 4)


def test_after_the_first_token_the_last_one_is_due() -> None:
    job = running_job(1, budget=Budget(ttft_ms=10, tpot_ms=20), produced=1, remaining=10, first_ms=30)
    assert job.due_ms == 30 + 200
    assert with_budget(job, Budget(tpot_ms=20, e2e_ms=150)).due_ms == 150
    assert with_budget(job, NO_BUDGET).due_ms == float("inf")


def test_thresholds_go_where_they_belong() -> None:
    policy = policy_named("deadline", worth=0.5, unbudgeted_ms=7.0)
    assert isinstance(policy, DeadlinePolicy)
    assert (policy.thresholds.worth, policy.thresholds.unbudgeted_ms) == (0.5, 7.0)
    assert policy_named("slackfit", buckets=3) == SlackFitPolicy(buckets=3)


@pytest.mark.parametrize(
    ("name", "thresholds", "message"),
    [
        ("fastest", {}, r"unknown policy 'fastest'; known: deadline, fixed, "),
        ("smallest", {"worth": 1}, r"smallest has unknown keys worth; known: none"),
        ("slackfit", {"worth": 1}, r"slackfit has unknown keys worth; known: buckets"),
        ("deadline", {"sure": 1}, r"deadline has unknown keys sure; known: free, hold_every, "),
        ("slackfit", {"buckets": 0}, r"buckets must be at least 1; got 0"),
        ("idle-feasible", {"margin": 0}, r"margin must be above 0; got 0"),
        ("smallest", {"name": "x"}, r"smallest has unknown keys name"),
        ("deadline", {"hold_worth": "1"}, r"deadline\.hold_worth must be a number; got '1'"),
        ("deadline", {"unbudgeted_ms": None}, r"unbudgeted_ms must be a number; got None"),
        ("deadline", {"worth": "x"}, r"worth must be .*; got 'x'"),
        ("deadline", {"free": float("nan")}, r"free must be .*; got nan"),
        ("deadline", {"worth": float("inf")}, r"worth must be .*; got inf"),
        ("deadline", {"worth": 10**400}, r"worth must be .*; got 10000"),
        ("deadline", {"late_ms": -1}, r"late_ms must be .*; got -1"),
        ("deadline", {"worth_most": True}, r"worth_most must be .*; got True"),
        ("deadline", {"renewed": 1.5}, r"renewed must be at most 1; got 1.5"),
        ("deadline", {"hold_every": 2}, r"hold_every must be a list; got 2"),
        ("deadline", {"hold_every": ["2"]}, r"hold_every.0 must be a whole number; got '2'"),
        ("deadline", {"hold_every": [1]}, r"hold_every.0 must be at least 2; got 1"),
        ("deadline", {"hopeless": 2}, r"hopeless must be at most 1; got 2"),
        ("fixed", {"submodel": ["S"]}, r"submodel must be text; got \['S'\]"),
        ("slackfit", {"buckets": 2.5}, r"buckets must be a whole number; got 2.5"),
        ("idle-feasible", {"margin": "1"}, r"margin must be .*; got '1'"),
    ],
)
def test_unknown_names_and_thresholds_are_refused_in_one_line(
    name: str, thresholds: dict[str, Any], message: str
) -> None:
    with pytest.raises(LtsRayError, match=message):
        policy_named(name, **thresholds)
