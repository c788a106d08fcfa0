"""Who gets the next free place."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.policy import Job, Situation
from serve.policies.queue_order import Pace, Patience, pace, queue_order
from tests.serve.policies.situations import FLAT, MENU, RISING, running_job, situation_of, situations, waiting_job

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
