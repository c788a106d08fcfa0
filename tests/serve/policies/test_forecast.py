"""The forecast against a twin that makes every step and every token, and against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.runtime.step_costs import Group, StepCosts
from serve.policies.budget import Budget
from serve.policies.deviation import NO_DEVIATION, Deviation
from serve.policies.fixed import own_option
from serve.policies.forecast import Forecast, forecast
from serve.policies.menu import neurons_of, planes_of
from serve.policies.policy import Job, Situation
from serve.policies.rollout import NONE_HELD, Holding
from tests.serve.policies.situations import (
    FLAT,
    MENU,
    MIXED,
    PLANES,
    RISING,
    XL,
    L,
    S,
    running_job,
    situation_of,
    situations,
    waiting_job,
)
from tests.serve.policies.twins import both

CAPS = [option.shape for option in MIXED.options]


def widths_of(situation: Situation) -> dict[int, int]:
    jobs = (*situation.running, *situation.waiting)
    return {job.id: own_option(job, MENU).shape for job in jobs if not job.elastic}


def token_by_token(
    situation: Situation, order: list[int], cap: int, costs: StepCosts, holding: Holding
) -> dict[int, tuple[float, float]]:
    """When each job's first and last token come."""
    widths, now_ms, wait = widths_of(situation), situation.now_ms, holding.wait
    by_id = {job.id: job for job in (*situation.running, *situation.waiting)}
    cached = {id: job.cached for id, job in by_id.items()}
    produced = {id: job.produced for id, job in by_id.items()}
    first = {id: job.first_ms for id, job in by_id.items() if job.first_ms is not None}
    last: dict[int, float] = {}
    running, waiting = [job.id for job in situation.running], list(order)

    def decodes(id: int) -> bool:
        return produced[id] > 0 and cached[id] == len(by_id[id].request.prompt) + produced[id] - 1

    while running or waiting:
        while waiting and len(running) < situation.capacity.slots:
            running.append(waiting.pop(0))
        prompts = [id for id in running if not decodes(id)]
        decoding = [id for id in running if decodes(id)]
        held = [id for id in decoding if id in holding.ids and by_id[id].decodes]
        apart = bool(prompts) or 0 < len(held) < len(decoding)
        taking = [id for id in decoding if id not in held or wait == 0 or not apart]
        wait = (wait - 1) % holding.every if apart else 0
        pieces = dict.fromkeys(taking, 1)
        room = max(1, situation.capacity.chunk_tokens - len(taking))
        for id in prompts:
            if room:
                pieces[id] = min(room, len(by_id[id].request.prompt) + produced[id] - cached[id])
                room -= pieces[id]
        groups = []
        for id, n in pieces.items():
            attended = sum(cached[id] + index + 1 for index in range(n))
            cached[id] += n
            done = cached[id] == len(by_id[id].request.prompt) + produced[id]
            shape = widths.get(id, cap)
            groups.append(Group(neurons_of(shape), n, attended, int(done), planes_of(shape)))
            produced[id] += done
        now_ms += costs.step_ms(groups)
        for id in pieces:
            if produced[id] > by_id[id].produced and id not in first:
                first[id] = now_ms
            if produced[id] == by_id[id].request.max_tokens:
                last[id] = now_ms
                running.remove(id)
    return {id: (first[id], last[id]) for id in by_id}


def as_pairs(predicted: Forecast, cap: int) -> dict[int, tuple[float, float]]:
    columns = zip(predicted.jobs, predicted.first_ms[cap], predicted.last_ms[cap], strict=True)
    return {job.id: (float(first), float(last)) for job, first, last in columns}


def order_of(situation: Situation, data: st.DataObject) -> list[int]:
    return data.draw(st.permutations([job.id for job in situation.waiting]))


@given(situations(), st.sampled_from([RISING, PLANES]), st.data())
def test_the_forecast_is_what_making_every_token_gives(
    situation: Situation, costs: StepCosts, data: st.DataObject
) -> None:
    order, caps = order_of(situation, data), data.draw(st.permutations(CAPS))[:4]
    predicted, slow = both(
        lambda: forecast(situation, order=order, widths=widths_of(situation), caps=caps, costs=costs)
    )
    assert slow.last_ms == pytest.approx(predicted.last_ms, rel=1e-9)
    for cap, shape in enumerate(caps):
        expected = token_by_token(situation, order, shape, costs, NONE_HELD)
        found = as_pairs(predicted, cap)
        assert found.keys() == expected.keys()
        for id, pair in expected.items():
            assert found[id] == pytest.approx(pair, rel=1e-9)


@given(situations(), st.data())
def test_so_it_is_where_some_are_held_back(situation: Situation, data: st.DataObject) -> None:
    """Looking at tokens is free here: in between events the order of steps with and without the held is left open."""
    order = order_of(situation, data)
    ids = frozenset(job.id for job in situation.running if data.draw(st.booleans()))
    every = data.draw(st.integers(2, 5))
    holding = Holding(ids=ids, every=every, wait=data.draw(st.integers(0, every - 1)))
    costs = replace(RISING, attended=0.0, prompt_attended=0.0)
    predicted = forecast(situation, order=order, widths=widths_of(situation), caps=[48], costs=costs, holding=holding)
    expected = token_by_token(situation, order, 48, costs, holding)
    found = as_pairs(predicted, 0)
    for id, pair in expected.items():
        assert found[id] == pytest.approx(pair, rel=1e-9)


def test_a_prompt_that_is_alone_takes_its_pieces_and_then_a_step_for_each_token() -> None:
    job = waiting_job(1, budget=Budget(e2e_ms=1e4), prompt_tokens=40, max_tokens=11)
    predicted = forecast(situation_of(waiting=(job,), chunk=16), order=[1], widths={}, caps=[24], costs=FLAT)
    timing = predicted.timing(1)
    assert (timing.ttft_ms, timing.tpot_ms, timing.e2e_ms) == pytest.approx((3 * 3.4, 3.4, 13 * 3.4))


@pytest.mark.parametrize("prompt_attended", [None, 0.05])
def test_rows_of_a_prompt_look_at_their_own_rate_but_for_the_last_one(prompt_attended: float | None) -> None:
    """Pieces of 16 and 4 tokens, then one row that decodes: what the last piece looks at is shared out evenly."""
    costs = replace(FLAT, attended=0.2, prompt_attended=prompt_attended)
    job = waiting_job(1, prompt_tokens=20, max_tokens=2)
    predicted = forecast(situation_of(waiting=(job,), chunk=16), order=[1], widths={}, caps=[24], costs=costs)
    first, second, each_ms = 16 * 17 / 2, 17 + 18 + 19 + 20, prompt_attended or 0.2
    ttft_ms = 2 * 3.4 + each_ms * (first + second * 3 / 4) + 0.2 * second / 4
    assert predicted.timing(1).ttft_ms == pytest.approx(ttft_ms)
    assert predicted.timing(1).tpot_ms == pytest.approx(3.4 + 0.2 * 21)


def test_who_finds_no_place_waits_for_the_first_to_end() -> None:
    running = (running_job(1, remaining=7), running_job(2, remaining=3))
    job = waiting_job(3, budget=Budget(e2e_ms=1e4), max_tokens=2)
    situation = situation_of(running=running, waiting=(job,), slots=2)
    predicted = forecast(situation, order=[3], widths={1: 192, 2: 192}, caps=[24], costs=FLAT)
    assert predicted.timing(3).ttft_ms == pytest.approx(4 * 20.2)
    assert predicted.timing(3).e2e_ms == pytest.approx(5 * 20.2)


def test_a_held_row_keeps_only_its_own_steps_wide() -> None:
    wide, tight = running_job(1, remaining=2), running_job(2, budget=Budget(e2e_ms=1e4), remaining=8)
    situation = situation_of(running=(wide, tight))
    holding = Holding(ids=frozenset({1}), every=4, wait=3)
    predicted = forecast(situation, order=[], widths={1: 192}, caps=[24], costs=FLAT, holding=holding)
    assert as_pairs(predicted, 0)[2][1] == pytest.approx(6 * 3.4 + 2 * 20.2)


SPREAD = Deviation(horizons_ms=(10.0, 1000.0), likely=((2.0, 1.0),) * 3, safe=((4.0, 2.0),) * 3)


def odds_of(
    job: Job,
    *,
    now_ms: float,
    first_ms: float,
    last_ms: float,
    deviation: Deviation = NO_DEVIATION,
    hopeless: float = 0.0,
) -> float:
    """With `hopeless` 0 and NO_DEVIATION 1.15 times the odds are the time left over the time needed, up to 1.15."""
    tables = np.array([first_ms], dtype=float).tobytes(), np.array([last_ms], dtype=float).tobytes()
    predicted = Forecast(now_ms=now_ms, jobs=(job,), caps=1, tables=tables)
    return float(predicted.odds(deviation, hopeless=hopeless)[0, 0])


def test_odds_grow_with_what_is_left_over_what_is_needed() -> None:
    job = waiting_job(1, budget=Budget(ttft_ms=200, e2e_ms=1000), max_tokens=11)
    assert odds_of(job, now_ms=100, first_ms=225, last_ms=400) * 1.15 == pytest.approx(0.8)  # (200 - 100) / (225 - 100)
    assert odds_of(job, now_ms=100, first_ms=120, last_ms=1600) * 1.15 == pytest.approx(0.6)  # 900 / (1600 - 100)
    paced = waiting_job(2, budget=Budget(tpot_ms=20), max_tokens=11)
    assert odds_of(paced, now_ms=100, first_ms=500, last_ms=750) * 1.15 == pytest.approx(0.8)
    assert odds_of(paced, now_ms=100, first_ms=500, last_ms=600) == 1


def test_only_the_rest_of_a_response_counts_and_what_was_missed_is_lost() -> None:
    job = running_job(1, budget=Budget(tpot_ms=20), produced=6, remaining=5, first_ms=50)
    assert odds_of(job, now_ms=150, first_ms=50, last_ms=275) * 1.15 == pytest.approx((50 + 200 - 150) / 125)
    late = running_job(1, budget=Budget(ttft_ms=40, e2e_ms=1e6), first_ms=50)
    assert odds_of(late, now_ms=150, first_ms=50, last_ms=200) == 0
    assert odds_of(running_job(1), now_ms=150, first_ms=50, last_ms=200) == 0, "nothing to keep"


@given(situations())
def test_the_odds_of_a_job_do_not_depend_on_the_kinds_of_bounds_that_others_have(situation: Situation) -> None:
    predicted = forecast(situation, order=[job.id for job in situation.waiting], widths={}, caps=CAPS, costs=RISING)
    together = predicted.odds(SPREAD, hopeless=0.9)
    assert together.shape == (len(CAPS), len(predicted.jobs))
    for place, job in enumerate(predicted.jobs):
        alone = Forecast(
            now_ms=predicted.now_ms,
            jobs=(job,),
            caps=predicted.caps,
            tables=(predicted.first_ms[:, [place]].tobytes(), predicted.last_ms[:, [place]].tobytes()),
        )
        assert (alone.odds(SPREAD, hopeless=0.9)[:, 0] == together[:, place]).all()


def test_what_is_lost_and_what_is_safe_depend_on_how_far_ahead_it_is() -> None:
    """Half of what is likely is lost; 10 ms ahead four times the time needed are safe, 1000 ms ahead twice."""

    def odds(needed_ms: float, left_ms: float) -> float:
        job = running_job(1, budget=Budget(e2e_ms=left_ms))
        return odds_of(job, now_ms=0, first_ms=0, last_ms=needed_ms, deviation=SPREAD, hopeless=0.5)

    assert [odds(10, 10 * room) for room in (1, 2.5, 4)] == pytest.approx([0, 0.5, 1])
    assert [odds(1000, 1000 * room) for room in (0.5, 1.25, 2)] == pytest.approx([0, 0.5, 1])
    assert [odds(100, 100 * room) for room in (0.75, 1.875, 3)] == pytest.approx([0, 0.5, 1])


def test_two_fixed_widths_and_a_cap_between_them_are_priced_as_the_step_is() -> None:
    elastic = running_job(3, budget=Budget(e2e_ms=1e4), remaining=1)
    pinned = (running_job(1, pinned=L, remaining=1), running_job(4, pinned=S, remaining=1))
    running = (*pinned, running_job(2, remaining=1), elastic)
    predicted = forecast(
        situation_of(running=running), order=[], widths={1: 96, 2: 192, 4: 24}, caps=[48], costs=RISING
    )
    groups = [Group(neurons, 1, 5, 1) for neurons in (96, 192, 48, 24)]
    assert float(predicted.last_ms[0, 0]) == pytest.approx(RISING.step_ms(groups))
    assert XL.neurons == 192
