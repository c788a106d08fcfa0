"""What the deadline policy promises, on loads that can be added up by hand and on any (hypothesis)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import Group, StepCosts
from serve.engine.scheduler import Scheduler
from serve.engine.step import Step
from serve.policies.budget import Budget
from serve.policies.capacity import Capacity
from serve.policies.deadline import DeadlinePolicy, Thresholds
from serve.policies.deviation import NO_DEVIATION
from serve.policies.fixed import own_option
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Plan, Situation
from serve.policies.request import Request
from tests.serve.policies.situations import (
    FLAT,
    MENU,
    MIXED,
    PLANES,
    RISING,
    XL,
    L,
    M,
    S,
    budgets,
    later,
    running_job,
    situation_of,
    situations,
    waiting_job,
    with_budget,
)

SURE = NO_DEVIATION.safe[0][0] * 1.001


def plan_of(*running: Job, waiting: tuple[Job, ...] = (), now_ms: float = 0.0, costs: StepCosts = FLAT) -> Plan:
    situation = situation_of(running=running, waiting=waiting, now_ms=now_ms, slots=8)
    return DeadlinePolicy().plan(situation, MENU, costs)


def due_in(ms: float, *, id: int = 1, remaining: int = 10, option: Option = XL) -> Job:
    return running_job(id, budget=Budget(e2e_ms=ms), remaining=remaining, option=option)


@pytest.mark.parametrize(("step_ms", "option"), [(20.2, XL), (10.6, L), (5.8, M), (3.4, S)])
def test_a_response_gets_the_widest_submodel_with_which_it_ends_in_time(step_ms: float, option: Option) -> None:
    assert plan_of(due_in(10 * step_ms * SURE)).options == {1: option}


def test_all_are_narrowed_for_the_one_that_is_tight() -> None:
    """A step costs what its widest member costs: narrowing the tight one alone would not help it."""
    tight, easy = due_in(10 * 5.8 * SURE), due_in(1e5, id=2)
    waiting = (waiting_job(3, budget=Budget(ttft_ms=1e5)),)
    assert plan_of(tight, easy, waiting=waiting).options == {1: M, 2: M, 3: M}
    assert plan_of(easy, waiting=waiting).options == {2: XL, 3: XL}


def test_a_response_is_narrowed_and_widened_again_in_its_middle() -> None:
    """Another one comes and goes: with it in the way the first one's slack shrinks, without it, it is enough again."""
    policy, job = DeadlinePolicy(), due_in(600, remaining=20)
    assert policy.plan(situation_of(running=(job,)), MENU, FLAT).options == {1: XL}
    tight = due_in(40, id=2)
    assert policy.plan(situation_of(running=(job, tight)), MENU, FLAT).options == {1: S, 2: S}
    assert policy.plan(situation_of(running=(job,), now_ms=40.0), MENU, FLAT).options == {1: XL}


def test_slack_that_shrinks_narrows_though_nobody_comes_or_goes() -> None:
    """Steps that take longer than they cost: after the plan's time it is made anew, and it is narrower."""
    policy, job = DeadlinePolicy(), due_in(10 * 20.2 * SURE)
    now_ms, options = 0.0, []
    for _ in range(10):
        plan = policy.plan(situation_of(running=(job,), now_ms=now_ms), MENU, FLAT)
        options.append(plan.options[1])
        now_ms += 1.3 * FLAT.step_ms([Group(plan.options[1].neurons, 1, 0, 1)])
        job = replace(job, cached=job.cached + 1, produced=job.produced + 1)
    assert options[0] == XL
    assert L in options
    assert now_ms <= 10 * 20.2 * SURE


def test_one_among_many_may_be_nearer_to_its_bound_than_one_that_is_alone() -> None:
    """The more there are, the more it takes to narrow them all; but nobody is let miss for it who could be in time."""
    near, many = due_in(10 * 20.2 * 1.14), tuple(due_in(1e5, id=id) for id in range(2, 9))
    assert plan_of(near).options[1] == L
    assert plan_of(near, *many).options[1] == XL
    assert plan_of(due_in(10 * 20.2 * 0.98), *many).options[1] == L


def test_one_that_is_lost_drags_nobody_down_and_goes_on_at_the_narrowest() -> None:
    lost = waiting_job(1, budget=Budget(ttft_ms=1))
    assert plan_of(due_in(1e5, id=2), waiting=(lost,), now_ms=50.0).options == {1: S, 2: XL}
    assert plan_of(waiting=(lost,), now_ms=50.0).options == {1: S}


def test_of_two_that_cannot_both_be_in_time_one_still_is() -> None:
    """One place: the second to start is late whatever the widths, the first is not if it is narrow."""
    jobs = tuple(waiting_job(id, budget=Budget(e2e_ms=10 * 3.4 * SURE)) for id in (1, 2))
    situation = situation_of(waiting=jobs, slots=1)
    plan = DeadlinePolicy().plan(situation, MENU, FLAT)
    assert plan.order == (1, 2)
    assert plan.options == {1: S, 2: S}


def test_whoever_has_no_budget_or_names_a_submodel_keeps_it_however_tight_the_others_are() -> None:
    pinned, free = running_job(2, pinned=L, budget=Budget(e2e_ms=1)), running_job(3)
    plan = plan_of(due_in(10 * 3.4 * SURE), pinned, free, waiting=(waiting_job(4), waiting_job(5, pinned=M)))
    assert {id: plan.options[id] for id in (2, 3, 4, 5)} == {2: L, 3: XL, 4: XL, 5: M}


def hold(jobs: tuple[Job, ...], steps: int) -> list[Plan]:
    """Step by step, with nobody coming and all in the middle of their responses."""
    policy, now_ms, plans = DeadlinePolicy(), 0.0, []
    for _ in range(steps):
        plan = policy.plan(situation_of(running=jobs, now_ms=now_ms), MENU, FLAT)
        plans.append(plan)
        going = [job for job in jobs if job.id not in plan.held]
        now_ms += FLAT.step_ms([Group(plan.options[job.id].neurons, 1, 0, 1) for job in going])
        jobs = tuple(later(job, now_ms=now_ms, option=plan.options[job.id]) if job in going else job for job in jobs)
        jobs = tuple(job for job in jobs if job.remaining)
    return plans


def test_one_without_a_budget_sits_out_most_steps_where_that_saves_a_budget_and_only_there() -> None:
    free, others = running_job(1, remaining=100), 20 * 3.4
    tight = due_in(others + 6 * 20.2, id=2, remaining=20)  # in time if every fourth step is wide, not if all are
    plans = hold((free, tight), 20)
    assert {id for plan in plans for id in plan.held} == {1}
    assert sum(plan.held == {1} for plan in plans) >= 12
    easy = due_in(21 * 20.2 * SURE, id=2, remaining=20)
    assert not any(plan.held for plan in hold((free, easy), 20))


def test_a_held_row_runs_once_those_have_ended_that_it_made_way_for() -> None:
    free, tight = running_job(1, remaining=100), due_in(20 * 3.4 + 6 * 20.2, id=2, remaining=20)
    policy = DeadlinePolicy()
    plans = [policy.plan(situation_of(running=(free, tight), now_ms=ms, slots=8), MENU, FLAT) for ms in (0.0, 0.1)]
    assert plans[-1].held == {1}
    assert not policy.plan(situation_of(running=(free,), now_ms=0.2, slots=8), MENU, FLAT).held


def test_held_rows_run_in_every_so_many_th_step_at_least() -> None:
    free = running_job(1, remaining=1000)
    tight = tuple(due_in(40 * 3.4 + 11 * 20.2, id=id, remaining=40) for id in (2, 3))
    ran = [index for index, plan in enumerate(hold((free, *tight), 40)) if 1 not in plan.held]
    assert max(after - before for before, after in pairwise(ran)) == max(Thresholds().hold_every)
    assert ran[0] == 0


def test_where_a_wide_row_takes_part_everybody_is_as_wide_as_costs_nothing() -> None:
    tight = due_in(5, id=2, remaining=2)  # lost: nothing is gained by holding
    plan = plan_of(running_job(1, remaining=50), tight)
    assert plan.options[2] == XL
    rising = StepCosts(grid=(1, 2), base=(1.0, 1.0), neuron=(0.1, 0.2), head=(0.0, 0.0), attended=0.0)
    assert plan_of(running_job(1, remaining=50), tight, costs=rising).options[2] == S


def test_a_decision_is_kept_while_time_is_left_and_made_anew_when_a_request_comes() -> None:
    """For a fifth of what is left: 200 ms, of which no decision is kept more than 50, then 8 ms."""
    policy, job = DeadlinePolicy(), due_in(1000)
    made = []
    for now_ms, waiting in (
        (0.0, ()),
        (49.0, ()),
        (51.0, ()),
        (52.0, (waiting_job(2),)),
        (960.0, ()),
        (967.0, ()),
        (969.0, ()),
    ):
        policy.plan(situation_of(running=(job,), waiting=waiting, now_ms=now_ms), MENU, FLAT)
        assert policy.last is not None
        made.append(policy.last.at_ms)
    assert made == [0.0, 0.0, 51.0, 52.0, 960.0, 960.0, 969.0]


@dataclass
class Counted:
    """Asked how often, by a scheduler that keeps a plan as long as it holds, or, with `anew`, before every step."""

    anew: bool
    policy: DeadlinePolicy = field(default_factory=DeadlinePolicy)
    name: str = "counted"
    asked: int = 0

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        self.asked += 1
        plan = self.policy.plan(situation, menu, costs)
        return replace(plan, until_ms=-inf) if self.anew else plan


def steps_of(requests: Sequence[tuple[int, Request]], policy: Counted, *, costs: StepCosts) -> list[Step]:
    """requests: with the number of the step before which each comes."""
    scheduler = Scheduler(menu=MENU, policy=policy, capacity=Capacity(slots=3, chunk_tokens=16), n_blocks=8)
    steps: list[Step] = []
    left, now_ms, to_come = {}, 0.0, list(enumerate(requests))
    while to_come or scheduler.has_work:
        while (to_come and to_come[0][1][0] <= len(steps)) or (to_come and not scheduler.has_work):
            id, (_, request) = to_come.pop(0)
            left[id] = request.max_tokens
            scheduler.add(Job(id=id, request=request, arrived_ms=now_ms))
        step = scheduler.step(now_ms, costs)
        assert step is not None
        steps.append(step)
        now_ms += step.predicted_ms
        made = {part.id: 0 for part in step.parts if part.segment.wants_logits}
        scheduler.took(step, made, now_ms)
        for id in made:
            left[id] -= 1
            if not left[id]:
                scheduler.remove(id)
    return steps


asked_for = st.builds(
    Request,
    prompt=st.integers(1, 20).map(lambda length: (0,) * length),
    max_tokens=st.integers(1, 40),
    budget=budgets,
    pinned=st.sampled_from([None, None, S, XL]),
)


@given(st.lists(st.tuples(st.integers(0, 40), asked_for), min_size=1, max_size=6), st.sampled_from([FLAT, RISING]))
def test_a_plan_that_is_kept_is_what_the_policy_would_say_again(
    requests: list[tuple[int, Request]], costs: StepCosts
) -> None:
    requests.sort(key=lambda each: each[0])
    kept, anew = Counted(anew=False), Counted(anew=True)
    assert steps_of(requests, kept, costs=costs) == steps_of(requests, anew, costs=costs)
    assert kept.asked <= anew.asked


def test_nothing_is_asked_while_all_decode_and_the_decision_holds() -> None:
    policy = Counted(anew=False)
    steps = steps_of([(0, Request(prompt=(0,), max_tokens=40, budget=Budget(e2e_ms=1e6)))], policy, costs=FLAT)
    assert len(steps) == 40
    assert policy.asked == 2 + len(range(3, 40, 3))  # prompt, first step of decoding, then past 50 ms: 3 steps of 20.2


@given(situations(), st.sampled_from([(MENU, FLAT), (MENU, RISING), (MIXED, PLANES)]))
def test_a_plan_says_something_for_everybody_and_holds_only_whom_it_may(
    situation: Situation, served: tuple[Menu, StepCosts]
) -> None:
    policy, (menu, costs) = DeadlinePolicy(), served
    for step in range(3):
        plan = policy.plan(replace(situation, now_ms=situation.now_ms + 30 * step), menu, costs)
        jobs = {job.id: job for job in (*situation.running, *situation.waiting)}
        assert plan.options.keys() == jobs.keys()
        assert sorted(plan.order) == sorted(job.id for job in situation.waiting)
        for id, job in jobs.items():
            if not job.elastic:
                assert plan.options[id] == own_option(job, menu)
            else:
                assert plan.options[id] in menu.elastic
        running = {job.id for job in situation.running}
        assert plan.held <= {id for id in running if not jobs[id].request.budget}
        assert not running or plan.held < running


@given(situations())
def test_without_what_it_remembers_it_decides_the_same_widths(situation: Situation) -> None:
    """What is remembered is only when held rows run again; with nobody to hold, it changes nothing."""
    bounded = replace(situation, running=tuple(job for job in situation.running if job.bounded))
    policy = DeadlinePolicy()
    policy.plan(replace(bounded, now_ms=bounded.now_ms - 100), MENU, RISING)
    assert policy.plan(bounded, MENU, RISING) == DeadlinePolicy().plan(bounded, MENU, RISING)


@given(situations(), st.floats(1, 10))
def test_a_faster_node_never_narrows_a_lone_request(situation: Situation, factor: float) -> None:
    for job in situation.running:
        alone = replace(situation, running=(job,), waiting=())
        slow = DeadlinePolicy().plan(alone, MENU, RISING.scaled(factor)).options[job.id]
        fast = DeadlinePolicy().plan(alone, MENU, RISING).options[job.id]
        assert fast.neurons >= slow.neurons


def scaled(job: Job, factor: float) -> Job:
    """With every bound that much of what it was."""
    bounds = {f"{kind}_ms": factor * limit for kind, limit in job.request.budget.items().items()}
    return with_budget(job, Budget(**bounds))


@settings(max_examples=40)
@given(situations(), st.floats(0.01, 1), st.sampled_from([FLAT, RISING]))
def test_less_room_never_means_a_wider_submodel(situation: Situation, factor: float, costs: StepCosts) -> None:
    for job in situation.jobs:
        alone = replace(situation, running=(job,) if job in situation.running else (), waiting=())
        alone = alone if alone.running else replace(alone, waiting=(job,))
        tight = replace(alone, running=tuple(scaled(job, factor) for job in alone.running))
        tight = replace(tight, waiting=tuple(scaled(job, factor) for job in alone.waiting))
        loose, narrow = (DeadlinePolicy().plan(each, MENU, costs).options[job.id] for each in (alone, tight))
        assert narrow.neurons <= loose.neurons


@given(st.floats(1, 400), st.integers(1, 30))
def test_a_lone_response_nearly_lost_runs_at_the_narrowest(left_ms: float, remaining: int) -> None:
    """Between lost and hardly possible: no cap makes it likely, and the widest would be the worst of them."""
    likely = remaining * FLAT.step_ms([Group(S.neurons, 1, 0, 1)])
    if left_ms < likely:
        assert plan_of(due_in(left_ms, remaining=remaining)).options == {1: S}


@given(situations())
def test_lost_ones_run_at_the_narrowest_unless_wider_costs_nothing(situation: Situation) -> None:
    late = tuple(job for job in situation.waiting if job.request.budget.e2e_ms is not None)
    lost = replace(situation, running=(), waiting=late)
    lost = replace(lost, waiting=tuple(scaled(job, 1e-6) for job in lost.waiting))
    options = DeadlinePolicy().plan(lost, MENU, RISING).options
    assert all(options[job.id] == S for job in lost.waiting if job.elastic)


@pytest.mark.parametrize("wrong", [{"hopeless": 1.1}, {"hopeless": -1.0}, {"hold_every": (1,)}], ids=str)
def test_thresholds_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LtsRayError, match=r"got "):
        Thresholds(**wrong)  # type: ignore[arg-type]
