"""Steps that are alike, taken together: all is as if each had been planned and learned from on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.engine.cost_correction import CostCorrection
from serve.engine.elapsed import HORIZONS_MS, PRIOR, RENEWED, SPREAD, STARTS, STEPS, ElapsedTime
from serve.engine.scheduler import Scheduler
from serve.policies.policy import Plan, Situation
from tests.serve.engine.test_cost_correction import COSTS
from tests.serve.engine.test_scheduler import MENU, REQUESTS, Scripted, add, scheduler_of

PERIOD_MS = 7.0
Rows = list[tuple[int, int, int, bool, str]]
"""Of a step: id, first place, how many, whether logits are wanted, width."""


@dataclass
class Periodic(Scripted):
    """The widths change with the time alone."""

    name: str = "periodic"

    def plan(self, situation: Situation, menu: object, costs: object) -> Plan:
        period = int(situation.now_ms // PERIOD_MS)
        jobs = [*situation.running, *situation.waiting]
        options = {job.id: self.options[(job.id + period) % len(self.options)] for job in jobs}
        return Plan(
            options=options,
            order=tuple(job.id for job in situation.waiting),
            until_ms=(period + 1) * PERIOD_MS,
        )


def played(scheduler: Scheduler, arrivals: list[tuple[int, int, int]], *, alike: bool) -> Iterator[tuple[object, Rows]]:
    """arrivals: prompt, max_tokens, and how many steps run before the next. Each step with what was there after it, but
    for those in the midst of a run. A step takes a millisecond."""
    now_ms, left = 0.0, {}
    for id, (prompt, max_tokens, pause) in enumerate(arrivals):
        assert add(scheduler, id, [7] * prompt, max_tokens)
        left[id] = max_tokens
        until_ms = now_ms + pause if id < len(arrivals) - 1 else inf
        while now_ms < until_ms:
            step = scheduler.step(now_ms, COSTS)
            if step is None:
                now_ms = until_ms
                break
            more, stays_ms = scheduler.alike(step) if alike else (0, -inf)
            if more:
                more = min(more, ceil(min(stays_ms, until_ms) - now_ms) - 1)
            made = [part for part in step.parts if part.segment.wants_logits]
            now_ms += 1 + more
            tokens, first = {part.id: part.id for part in made}, int(now_ms) % (1 + more)  # in one piece or in two
            for times in filter(None, (first, 1 + more - first)):
                scheduler.took(step, tokens, now_ms, times=times)
            for part in made:
                left[part.id] -= 1 + more
                if not left[part.id]:
                    scheduler.remove(part.id)
            for later in range(1 + more):
                rows = [
                    (part.id, part.segment.start + later, len(part.segment.tokens), part in made, part.option.name)
                    for part in step.parts
                ]
                yield (scheduler.situation(now_ms), scheduler.kv_usage) if later == more else None, rows
    assert not scheduler.has_work


@settings(max_examples=60)
@given(
    prefix_cache=st.booleans(),
    slots=st.integers(1, 4),
    n_blocks=st.integers(7, 14),
    widths=st.integers(1, 4),
    requests=REQUESTS,
)
def test_alike_steps_are_as_many_single_ones(
    prefix_cache: bool, slots: int, n_blocks: int, widths: int, requests: list[tuple[int, int, int]]
) -> None:
    def run(alike: bool) -> list[tuple[object, Rows]]:
        scheduler = Scheduler(
            menu=MENU,
            policy=Periodic(options=MENU.elastic[:widths]),
            capacity=scheduler_of(slots=slots, max_queue=10, chunk_tokens=24).capacity,
            n_blocks=n_blocks,
            prefix_cache=prefix_cache,
        )
        return list(played(scheduler, requests, alike=alike))

    single, together = run(False), run(True)
    assert [rows for _, rows in together] == [rows for _, rows in single]
    for (after, _), (expected, _) in zip(together, single, strict=True):
        assert after is None or after == expected


def test_a_long_response_alone_is_one_run_for_as_long_as_the_plan_holds() -> None:
    scheduler = scheduler_of(Periodic())
    add(scheduler, 1, [7] * 4, max_tokens=30)
    for now_ms, expected in ((0.0, (0, -inf)), (1.0, (28, PERIOD_MS)), (2.0, (27, PERIOD_MS))):
        step = scheduler.step(now_ms, COSTS)
        assert step is not None
        assert scheduler.alike(step) == expected  # the first one reads the prompt
        scheduler.took(step, {1: 0}, now_ms + 1)
    add(scheduler, 2, [7] * 4, max_tokens=30)
    step = scheduler.step(3.0, COSTS)
    assert step is not None
    assert scheduler.alike(step) == (0, -inf)


MILLISECONDS = st.one_of(st.just(0.0), st.floats(0.01, 100.0))
STEP_TIMES = st.lists(st.tuples(MILLISECONDS, MILLISECONDS), min_size=1, max_size=9)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), STEP_TIMES), max_size=20))
def test_costs_are_corrected_by_runs_of_steps_as_by_each(runs: list[tuple[bool, list[tuple[float, float]]]]) -> None:
    single, together = CostCorrection(COSTS), CostCorrection(COSTS)
    for prompt, run in runs:
        expected = []
        for quiet_ms, actual_ms in run:
            expected.append(single.costs.served_ms(quiet_ms, reads_prompt=prompt))
            single.note(quiet_ms, actual_ms, prompt=prompt)
        quiet, actual = zip(*run, strict=True)
        assert together.note_all(quiet, actual, prompt=prompt) == expected
        assert together.costs == single.costs


def windows(predicted: list[float], passed: list[float], starts: list[int], prior: object, horizon: int) -> object:
    """The median and the quantile at one horizon, window by window."""
    if len(starts) > STARTS:
        starts = [starts[int(place)] for place in np.linspace(0, len(starts) - 1, STARTS)]
    spans, ratios = [], []
    for start in starts:
        stop = start
        while stop < len(predicted) and sum(predicted[start:stop]) < HORIZONS_MS[horizon]:
            stop += 1
        if sum(predicted[start:stop]) >= HORIZONS_MS[horizon]:
            spans.append(sum(predicted[start:stop]))
            ratios.append(sum(passed[start:stop]) / spans[-1])
    middle, upper = prior  # type: ignore[misc]
    if not ratios:
        return middle, upper
    share = min(1.0, min(len(ratios), sum(predicted) / np.mean(spans)) / PRIOR)
    ordered = sorted(ratios)
    safe = ordered[min(len(ordered), ceil((len(ordered) + 1) * 0.9)) - 1]
    return middle + share * (ordered[len(ordered) // 2] - middle), upper + share * (safe - upper)


def test_deviations_are_those_of_all_windows_one_by_one() -> None:
    rng = np.random.default_rng(2)
    elapsed = ElapsedTime(attainment=0.9)
    steps = STEPS + 3 * RENEWED
    predicted = rng.integers(1, 40, steps) / 4  # sums of quarters are exact, in any order
    passed, prompt = np.round(predicted * rng.lognormal(0, 0.3, steps) * 64) / 64, rng.random(steps) < 0.1
    begun = 0
    while begun < steps:  # runs do not end where the quantiles are taken anew
        end = min(begun + int(rng.integers(1, 60)), steps)
        while (prompt[begun:end] != prompt[begun]).any():
            end -= 1
        elapsed.note_all(predicted[begun:end].tolist(), passed[begun:end].tolist(), prompt=bool(prompt[begun]))
        begun = end
    last, took = predicted[-STEPS:].tolist(), passed[-STEPS:].tolist()
    reads = np.flatnonzero(prompt[-STEPS:]).tolist()
    others = sorted(set(range(STEPS)) - set(reads))
    for horizon in (1, 3, 5):
        whole = windows(last, took, list(range(STEPS)), (1.0, SPREAD), horizon)
        expected = [windows(last, took, reads, whole, horizon), windows(last, took, others, whole, horizon), whole]
        for row, (middle, upper) in enumerate(expected):  # type: ignore[misc]
            assert elapsed.deviation.likely[row][horizon] == pytest.approx(middle, rel=1e-12)
            assert elapsed.deviation.safe[row][horizon] == pytest.approx(max(upper, 1.02 * middle), rel=1e-12)


def test_quantiles_are_taken_anew_in_the_midst_of_a_run() -> None:
    rng = np.random.default_rng(3)
    single, together = ElapsedTime(attainment=0.99), ElapsedTime(attainment=0.99)
    predicted = rng.uniform(1, 9, RENEWED + 7).tolist()
    passed = [2 * each for each in predicted]
    for each, took in zip(predicted[:RENEWED], passed, strict=False):
        single.note(each, took, prompt=False)
    together.note_all(predicted, passed, prompt=False)
    assert together.deviation == single.deviation
    assert replace(together.deviation) != ElapsedTime(attainment=0.99).deviation
