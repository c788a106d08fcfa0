"""Who gets the next free place."""

from __future__ import annotations

from dataclasses import replace
from heapq import heapify, heappop, heappush
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.policy import Job, Situation
from serve.policies.queue_order import Pace, Patience, _in_time, pace, queue_order
from tests.serve.policies.situations import (
    FLAT,
    MENU,
    RISING,
    running_job,
    situation_of,
    situations,
    waiting_job,
    with_priority,
)

PACE = Pace(step_ms=10.0, prompt_ms=1.0)
PATIENCE = Patience(unbudgeted_ms=5000, late_ms=8000)


def in_line(*jobs: Job, now_ms: float = 0.0, running: tuple[Job, ...] = (), slots: int = 4) -> list[int]:
    situation = situation_of(running=running, waiting=jobs, now_ms=now_ms, slots=slots)
    return list(queue_order(situation, PACE, PATIENCE))


def test_the_earliest_that_must_start_is_first_and_a_whole_response_counts_with_all_its_steps() -> None:
    first = waiting_job(1, budget=Budget(ttft_ms=100))  # by 96
    whole = waiting_job(2, budget=Budget(e2e_ms=150), max_tokens=10)  # by 150 - 4 - 90 = 56
    assert in_line(first, whole) == [2, 1]
    assert PACE.start_by_ms(first) == 96
    assert PACE.start_by_ms(whole) == 56


def test_those_without_a_budget_come_after_all_that_can_be_in_time_and_after_those_that_are_late() -> None:
    free, late = waiting_job(1, arrived_ms=0), waiting_job(2, arrived_ms=10, budget=Budget(ttft_ms=5))
    timely = waiting_job(3, arrived_ms=900, budget=Budget(ttft_ms=500))
    assert in_line(free, late, timely, now_ms=1000) == [3, 2, 1]
    newer = waiting_job(4, arrived_ms=20)
    assert in_line(free, newer, now_ms=1000) == [1, 4]


def test_one_without_a_budget_that_has_waited_long_goes_first_but_only_where_no_other_runs() -> None:
    free = (waiting_job(1), waiting_job(2, arrived_ms=1))
    timely = waiting_job(3, arrived_ms=6000, budget=Budget(ttft_ms=500))
    assert in_line(*free, timely, now_ms=6000) == [1, 3, 2]
    assert in_line(*free, timely, now_ms=6000, running=(running_job(9),)) == [3, 1, 2]
    assert in_line(*free, timely, now_ms=6000, running=(running_job(9, budget=Budget(e2e_ms=1)),)) == [1, 3, 2]


def test_a_late_one_has_its_turn_before_those_that_must_start_after_its_patience_ends() -> None:
    late = waiting_job(1, budget=Budget(ttft_ms=5))
    before = waiting_job(2, arrived_ms=7400, budget=Budget(ttft_ms=500))  # by 7896
    after = waiting_job(3, arrived_ms=7700, budget=Budget(ttft_ms=500))  # by 8196
    assert in_line(late, before, after, now_ms=7700) == [2, 1, 3]


def test_a_bound_on_the_pace_alone_lets_wait_as_long_as_none() -> None:
    paced = waiting_job(1, budget=Budget(tpot_ms=50))
    timely = waiting_job(2, arrived_ms=3000, budget=Budget(ttft_ms=500))
    assert in_line(paced, timely, now_ms=3000) == [2, 1]
    assert in_line(paced, replace(timely, arrived_ms=4900), now_ms=4900) == [1, 2]


def test_one_that_would_be_late_after_those_before_it_makes_way_for_one_that_would_not() -> None:
    """One place, 104 ms for each: who starts second must do so by then, and the third is served in time instead."""
    jobs = [waiting_job(id, budget=Budget(ttft_ms=ms)) for id, ms in ((1, 50), (2, 60), (3, 150))]
    assert in_line(*jobs, slots=1) == [1, 3, 2]
    assert in_line(*jobs, slots=2) == [1, 2, 3]


def test_a_preempted_response_is_due_by_its_last_token() -> None:
    job = replace(running_job(1, budget=Budget(ttft_ms=1e3, tpot_ms=20), produced=5, remaining=6), cached=0)
    assert PACE.start_by_ms(job) == 10 * 20 - (4 + 5) * 1.0 - 5 * 10.0


def test_the_pace_is_that_of_a_full_batch_at_the_narrowest() -> None:
    costs = StepCosts(grid=(1, 1000), base=(1.0, 1000.0), neuron=(0.1, 0.1), head=(0.0, 0.0), attended=0.0)
    found = pace(situation_of(slots=4, chunk=16), MENU, costs)
    assert found == Pace(step_ms=4 + 2.4, prompt_ms=(16 + 2.4) / 16)


@given(situations())
def test_everybody_is_in_line_once(situation: Situation) -> None:
    for costs in (FLAT, RISING):
        order = queue_order(situation, pace(situation, MENU, costs), Patience())
        assert sorted(order) == sorted(job.id for job in situation.waiting)


@given(situations())
def test_after_long_enough_nobody_who_comes_is_served_before_those_that_waited(situation: Situation) -> None:
    """No starvation: an hour later a newcomer, tight as it is, stands behind all that have a budget."""
    hour = 3_600_000.0
    newcomer = waiting_job(999, arrived_ms=hour, budget=Budget(ttft_ms=10_000))
    old = tuple(job for job in situation.waiting if job.request.budget != NO_BUDGET)
    an_hour_later = replace(situation, now_ms=hour, waiting=(*old, newcomer))
    order = queue_order(an_hour_later, pace(situation, MENU, FLAT), Patience())
    assert order[-1] == 999


def ranked(situation: Situation, priorities: list[int]) -> Situation:
    """Those that wait have these priorities, in turn."""
    numbers = [priorities[place % len(priorities)] for place in range(len(situation.waiting))]
    return replace(situation, waiting=tuple(map(with_priority, situation.waiting, numbers)))


def order_without_priorities(situation: Situation, pace: Pace, patience: Patience) -> list[int]:
    """As it is described for requests that are all alike, written down once more."""
    now, slots = situation.now_ms, situation.capacity.slots
    places = [now] * (slots - len(situation.running)) + [now + pace.takes_ms(job) for job in situation.running]
    heapify(places)
    bounded = [job for job in situation.waiting if job.bounded]
    free = [job for job in situation.waiting if not job.bounded]
    moments = {job.id: job.arrived_ms + patience.late_ms for job in bounded} | {job.id: inf for job in free}
    until = {job.id: min(pace.start_by_ms(job), job.arrived_ms + patience.unbudgeted_ms) for job in bounded}
    for job in sorted(bounded, key=lambda job: (until[job.id], job.arrived_ms, job.id)):
        if max(now, places[0]) <= pace.start_by_ms(job):
            heappush(places, max(now, heappop(places)) + pace.takes_ms(job))
            moments[job.id] = until[job.id]
    if free and all(job.bounded for job in situation.running) and now - free[0].arrived_ms >= patience.unbudgeted_ms:
        moments[free[0].id] = -inf
    return [job.id for job in sorted(situation.waiting, key=lambda job: (moments[job.id], job.arrived_ms, job.id))]


@given(situations(), st.integers(-5, 5), st.sampled_from([PATIENCE, Patience(unbudgeted_ms=400, late_ms=600)]))
def test_where_all_have_one_priority_it_is_as_if_there_were_none(
    situation: Situation, priority: int, patience: Patience
) -> None:
    order = queue_order(ranked(situation, [priority]), PACE, patience)
    assert list(order) == order_without_priorities(situation, PACE, patience)


def test_of_two_that_cannot_both_be_in_time_the_lower_number_is() -> None:
    """One place, 104 ms for each."""
    early, late = waiting_job(1, budget=Budget(ttft_ms=50)), waiting_job(2, budget=Budget(ttft_ms=60))
    assert in_line(with_priority(early, 1), late, slots=1) == [2, 1]
    assert in_line(early, with_priority(late, 1), slots=1) == [1, 2]
    assert in_line(with_priority(early, 1), late, slots=2) == [1, 2], "both can"


def test_none_makes_way_in_vain() -> None:
    """The third is too late after the second alone already, which takes 104 ms: the first, of 14 ms, may stay."""
    short = waiting_job(1, budget=Budget(ttft_ms=94), max_tokens=1, priority=1)
    jobs = [waiting_job(id, budget=Budget(ttft_ms=ms)) for id, ms in ((2, 100), (3, 104))]
    assert in_line(short, *jobs, slots=1) == [1, 2, 3]
    assert in_line(short, jobs[0], replace(jobs[1], arrived_ms=5), slots=1) == [2, 3, 1], "one ms more is enough"


def test_of_those_that_may_make_way_the_longest_of_the_highest_number_does() -> None:
    short = waiting_job(1, budget=Budget(ttft_ms=100), max_tokens=1, priority=2)  # takes 14 ms
    long = waiting_job(2, budget=Budget(ttft_ms=100), max_tokens=9, priority=2)  # takes 94 ms
    other = waiting_job(3, budget=Budget(ttft_ms=100), max_tokens=10, priority=1)  # takes 104 ms
    assert in_line(short, long, other, slots=1) == [1, 3, 2], "by 96: after 108 it would be late"
    assert in_line(short, long, other, slots=2) == [1, 2, 3]


def test_those_that_wait_behind_go_by_their_numbers_then_by_arrival() -> None:
    late = [waiting_job(id, arrived_ms=id, budget=Budget(ttft_ms=5), priority=id % 2) for id in (1, 2, 3, 4)]
    free = [waiting_job(id, arrived_ms=id, priority=id % 2) for id in (5, 6)]
    assert in_line(*late, *free, now_ms=1000) == [2, 4, 6, 1, 3, 5]


def test_one_that_has_waited_long_enough_goes_ahead_whatever_its_number() -> None:
    """Also where it may not start yet, since another without a budget runs: no newer one overtakes it for ever."""
    old_late = waiting_job(1, budget=Budget(ttft_ms=5), priority=9)
    old_free = waiting_job(2, arrived_ms=1, priority=9)
    timely = waiting_job(3, arrived_ms=8500, budget=Budget(ttft_ms=5000))
    new_free = waiting_job(4, arrived_ms=8500)
    waiting = (old_late, old_free, timely, new_free)
    assert in_line(*waiting, now_ms=9000) == [2, 1, 3, 4]
    assert in_line(*waiting, now_ms=9000, running=(running_job(8),)) == [1, 3, 2, 4]


@given(situations(), st.lists(st.integers(-2, 2), min_size=1, max_size=6), st.integers(-2, 2))
def test_higher_numbers_cost_no_lower_one_its_time(situation: Situation, priorities: list[int], most: int) -> None:
    """Those that are in front of all that make way are the same, whether or not there are higher numbers."""

    def in_time(situation: Situation) -> set[int]:
        line = [job for job in situation.waiting if job.bounded and PACE.start_by_ms(job) >= situation.now_ms]
        line.sort(key=lambda job: (PACE.start_by_ms(job), job.arrived_ms, job.id))
        return set(_in_time(situation, PACE, [(PACE.start_by_ms(job), job) for job in line]))

    whole = ranked(situation, priorities)
    number = {job.id: job.request.priority for job in whole.waiting}
    without = replace(whole, waiting=tuple(job for job in whole.waiting if number[job.id] <= most))
    assert {id for id in in_time(whole) if number[id] <= most} == in_time(without)


@given(situations(), st.lists(st.integers(-2, 2), min_size=1, max_size=6))
def test_all_that_are_kept_start_in_time(situation: Situation, priorities: list[int]) -> None:
    whole = ranked(situation, priorities)
    order = queue_order(whole, PACE, Patience(unbudgeted_ms=1e9, late_ms=1e9))
    assert sorted(order) == sorted(job.id for job in whole.waiting)
    now, jobs = whole.now_ms, {job.id: job for job in whole.waiting}
    line = sorted((PACE.start_by_ms(job), job.arrived_ms, job.id) for job in jobs.values() if job.bounded)
    kept = _in_time(whole, PACE, [(start_by, jobs[id]) for start_by, _, id in line if start_by >= now])
    places = [now] * (whole.capacity.slots - len(whole.running)) + [now + PACE.takes_ms(job) for job in whole.running]
    heapify(places)
    for job in [jobs[id] for id in order if id in kept]:
        begin_ms = max(now, heappop(places))
        assert begin_ms <= PACE.start_by_ms(job)
        heappush(places, begin_ms + PACE.takes_ms(job))
