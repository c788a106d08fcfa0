"""What a request is told before it joins the line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.policies.admission import drain_s, judge, smallest_feasible_budget_ms
from serve.policies.budget import Budget, Timing
from serve.policies.deadline import DeadlinePolicy
from serve.policies.deviation import NO_DEVIATION
from serve.policies.named_policies import POLICIES, policy_named
from serve.policies.policy import Policy, Situation
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

IDLE = situation_of()
MARGIN = NO_DEVIATION.safe[0][0]


def judged(situation: Situation, budget: Budget, policy: Policy | None = None) -> tuple[str, Timing, bool | None]:
    job = waiting_job(1, budget=budget, arrived_ms=situation.now_ms)
    choice = judge(situation, job, MENU, FLAT, policy or DeadlinePolicy())
    return choice.option.name, choice.predicted, choice.met


def test_alone_it_is_told_its_own_steps() -> None:
    option, predicted, met = judged(IDLE, Budget(e2e_ms=10_000))
    assert (option, met) == (XL.name, True)
    assert predicted.to_json() == {"ttft": 20.2, "tpot": 20.2, "e2e": 202.0}


@pytest.mark.parametrize(("step_ms", "option"), [(20.2, XL), (10.6, L), (5.8, M), (3.4, S)])
@pytest.mark.parametrize("kind", ["ttft_ms", "tpot_ms", "e2e_ms"])
def test_every_kind_of_budget_binds(kind: str, step_ms: float, option: object) -> None:
    steps = 10 if kind == "e2e_ms" else 1
    name, predicted, met = judged(IDLE, Budget(**{kind: steps * step_ms * 1.2}))
    assert (name, met) == (getattr(option, "name", None), True)
    assert getattr(predicted, kind) == pytest.approx(steps * step_ms)


def test_a_budget_that_nothing_meets_gets_the_narrowest_and_says_so() -> None:
    assert judged(IDLE, Budget(e2e_ms=1))[::2] == ("S", False)
    assert judged(IDLE, Budget(e2e_ms=34 * MARGIN - 0.1))[::2] == ("S", False)
    assert judged(IDLE, Budget(e2e_ms=34 * MARGIN + 0.1))[::2] == ("S", True)


def test_without_a_budget_there_is_nothing_to_meet() -> None:
    assert judged(IDLE, Budget())[::2] == ("XL", None)


def test_who_waits_ahead_and_who_runs_counts() -> None:
    running = (running_job(7, remaining=6),)
    situation = situation_of(running=running, waiting=(waiting_job(8, max_tokens=5),), slots=1)
    job = waiting_job(9, max_tokens=5)
    predicted = judge(situation, job, MENU, FLAT, DeadlinePolicy()).predicted
    assert predicted.ttft_ms == pytest.approx(12 * 20.2)


def test_a_policy_that_would_still_narrow_lets_in_what_it_can_save() -> None:
    """At the width to begin with it is in time, but without the margin: narrower, it would have that as well."""
    easy = tuple(running_job(id, budget=Budget(e2e_ms=1e6), option=XL) for id in range(2, 9))
    crowded = situation_of(running=easy, slots=8)
    name, predicted, met = judged(crowded, Budget(e2e_ms=202 * 1.14))
    assert (name, met) == ("XL", True)
    assert predicted.e2e_ms * MARGIN > 202 * 1.14
    assert judged(crowded, Budget(e2e_ms=202 * 1.14), policy_named("fixed"))[::2] == ("XL", False)


def test_asking_changes_nothing_of_what_the_policy_remembers() -> None:
    policy = DeadlinePolicy()
    policy.plan(situation_of(running=(running_job(2, budget=Budget(e2e_ms=1e3)),)), MENU, FLAT)
    before = policy.last
    judge(IDLE, waiting_job(1, budget=Budget(e2e_ms=1e3)), MENU, FLAT, policy)
    smallest_feasible_budget_ms(IDLE, waiting_job(1, budget=Budget(e2e_ms=1e3)), MENU, FLAT, policy)
    assert policy.last is before


def test_alone_the_smallest_feasible_budget_is_what_the_policys_narrowest_takes() -> None:
    job = waiting_job(1, budget=Budget(ttft_ms=1, e2e_ms=1))
    for name, step_ms in (("deadline", 3.4), ("fixed", 20.2), ("smallest", 3.4), ("slackfit", 3.4)):
        feasible = smallest_feasible_budget_ms(IDLE, job, MENU, FLAT, policy_named(name))
        assert feasible == pytest.approx({"ttft": step_ms * MARGIN, "e2e": 10 * step_ms * MARGIN}, abs=0.1)


bounds = st.one_of(st.none(), st.floats(1, 3000))
asked = st.builds(Budget, ttft_ms=bounds, tpot_ms=bounds, e2e_ms=bounds).filter(bool)


@given(situations(), asked, st.integers(1, 40), st.integers(1, 30), st.sampled_from(sorted(POLICIES)))
def test_the_smallest_feasible_budget_is_feasible(
    situation: Situation, budget: Budget, prompt_tokens: int, max_tokens: int, name: str
) -> None:
    job = waiting_job(
        999, budget=budget, arrived_ms=situation.now_ms, prompt_tokens=prompt_tokens, max_tokens=max_tokens
    )
    feasible = smallest_feasible_budget_ms(situation, job, MENU, RISING, policy_named(name))
    assert feasible.keys() == budget.items().keys()
    asking = with_budget(job, Budget(**{f"{kind}_ms": limit for kind, limit in feasible.items()}))
    assert judge(situation, asking, MENU, RISING, policy_named(name)).met


def test_the_engine_is_drained_when_the_longest_that_runs_has_ended() -> None:
    running = (running_job(1, remaining=50, option=S), running_job(2, remaining=120, option=S))
    assert drain_s(situation_of(running=running), FLAT.scaled(10)) == 5  # 120 steps of 34 ms
    wide = (running_job(1, remaining=50, option=XL), running[1])
    assert drain_s(situation_of(running=wide, waiting=(waiting_job(3),)), FLAT.scaled(10)) == 13  # 50 of 202, 70 of 34
    assert drain_s(IDLE, FLAT) == 1
    assert M.neurons < L.neurons
