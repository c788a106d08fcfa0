"""The simulator beside the endpoint: what steps teach it, and how far off it is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from benchmarks.load.compared_load import compare
from benchmarks.load.kept_steps import TakenStep, fitted
from lts_ray.errors import LtsRayError
from serve.engine.step import Step
from serve.policies.budget import NO_BUDGET, Budget, Timing
from serve.simulate.request_outcome import Outcome, refused
from serve.traffic.arrival import Arrival
from tests.benchmarks.load.loads import COSTS
from tests.serve.models import tiny_menu


def taken(quiet_ms: float, took_ms: float, *, prompt: bool = False, predicted_ms: float = 1.0) -> TakenStep:
    step = Step(
        parts=(),
        groups=(),
        quiet_ms=quiet_ms,
        predicted_ms=predicted_ms,
        preempted=(),
        reused_tokens=0,
        switches=0,
        decoded=1,
        reads_prompt=prompt,
    )
    return TakenStep(step, took_ms, 0.0)


def test_steps_say_the_slowdowns_the_overhead_and_the_noise_around_them() -> None:
    quiet = [(2.0, False), (5.0, False), (9.0, False), (6.0, True), (20.0, True)] * 20
    noise = [0.9, 1.1, 0.9, 1.1, 1.0, 1.1, 0.9, 1.1, 0.9, 1.0] * 10
    steps = [
        taken(ms, (ms * (3.0 if prompt else 1.5) + 0.5) * factor, prompt=prompt)
        for (ms, prompt), factor in zip(quiet, noise, strict=True)
    ]
    costs, recorded, recorded_prompts = fitted(COSTS.scaled(7.0), steps)
    assert (costs.slowdown, costs.prompt_slowdown) == pytest.approx((1.5, 2.0), rel=0.02)
    assert costs.overhead_ms == pytest.approx(0.5, rel=0.1)
    prompts = [prompt for _, prompt in quiet]
    assert recorded == pytest.approx(
        [each for each, prompt in zip(noise, prompts, strict=True) if not prompt], rel=0.05
    )
    assert recorded_prompts == pytest.approx(
        [each for each, prompt in zip(noise, prompts, strict=True) if prompt], rel=0.05
    )


def test_steps_of_one_sort_alone_are_enough() -> None:
    costs, recorded, recorded_prompts = fitted(COSTS, [taken(4.0, 8.0)] * 5)
    assert costs.served_ms(4.0, reads_prompt=False) == pytest.approx(8.0)
    assert (recorded, recorded_prompts) == (pytest.approx([1.0] * 5), ())
    costs = fitted(COSTS, [taken(quiet_ms, 1.0) for quiet_ms in (4.0, 8.0, 12.0)]).costs  # all is overhead
    assert costs.served_ms(8.0, reads_prompt=True) < 1.1


def outcomes(*times_ms: tuple[float, float] | None) -> Sequence[Outcome]:
    """Of requests whose budget is 100 ms for all; None: refused."""
    arrivals = [Arrival(at_ms=0, prompt_tokens=2, output_tokens=3, budget=Budget(e2e_ms=100.0), klass="tight")]
    return [
        refused(arrival, "rejected", {})
        if times is None
        else Outcome(
            arrival=arrival,
            status="done",
            timing=Timing(ttft_ms=times[0], tpot_ms=1.0, e2e_ms=times[1]),
            submodels={"XL": 3},
        )
        for arrival, times in zip(arrivals * len(times_ms), times_ms, strict=True)
    ]


def test_errors_are_of_each_request_by_the_middle_replay_and_budgets_count_for_all() -> None:
    real = outcomes((10.0, 90.0), (20.0, 80.0), (10.0, 50.0), None)
    again = outcomes((11.0, 90.0), (20.0, 80.0), (10.0, 50.0), None)
    replays = [
        outcomes((10.0, 99.0), (22.0, 88.0), (9.0, 45.0), (5.0, 60.0)),
        outcomes((12.0, 120.0), (24.0, 80.0), (9.0, 45.0), (5.0, 60.0)),
        outcomes((14.0, 108.0), (26.0, 96.0), (9.0, 45.0), (5.0, 60.0)),
    ]
    found = compare(
        ("one", "ramp", 0.5, 0),
        [real, again],
        replays,
        replays[:1],
        menu=tiny_menu(),
        steps=[(taken(1.0, 2.0, predicted_ms=1.5), 1.0), (taken(1.0, 4.0, predicted_ms=3.0), 3.0)],
    )
    assert (found.requests, found.answered) == (4, 3)
    assert found.error == pytest.approx({"ttft": 0.2, "e2e": 0.1})
    assert found.bias == pytest.approx({"ttft": 0.2, "e2e": 0.1})
    assert found.error_own == pytest.approx({"ttft": 0.1, "e2e": 0.1})
    assert found.error_once["ttft"] == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert found.apart == pytest.approx({"ttft": 0.0, "e2e": 0.0})
    assert found.attainment == pytest.approx((0.75, (1.0 + 0.75 + 0.75) / 3))
    assert found.loss == pytest.approx(((9 * 1.0 + 3 * 4.0) / 12, 1.0))
    assert found.slower == pytest.approx(6.0 / 4.0 - 1)
    assert found.step_error == pytest.approx(0.25)
    assert found.percentiles["e2e p50"] == pytest.approx((80.0, (88.0 + 80.0 + 96.0) / 3))
    assert found.pairs[0] == pytest.approx((10.0, 12.0, 90.0, 108.0))


def test_no_request_on_both_sides_is_told_and_without_budgets_none_is_kept() -> None:
    free = [replace(each, arrival=replace(each.arrival, budget=NO_BUDGET)) for each in outcomes((1.0, 2.0))]
    steps = [(taken(1.0, 1.0), 1.0)]
    assert compare(("a", "b", 1.0, 0), [free], [free], [free], menu=tiny_menu(), steps=steps).attainment is None
    with pytest.raises(LtsRayError, match="was answered both by the endpoint and in the simulator"):
        compare(("a", "b", 1.0, 0), [outcomes(None)], [free], [free], menu=tiny_menu(), steps=steps)
