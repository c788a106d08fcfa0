from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest

from lts_ray.runtime.step_costs import Group, StepCosts
from serve.engine.cost_correction import LIMIT, CostCorrection

COSTS = StepCosts(
    grid=(1, 8, 64), base=(5.0, 6.0, 20.0), neuron=(1e-3, 1.2e-3, 4e-3), head=(2.0, 3.0, 9.0), attended=1e-3
)
DECODING = [Group(4000, 4, 400, 4)]
PROMPT = [Group(4000, 4, 400, 4), Group(8000, 40, 800, 0)]


def serve(
    correction: CostCorrection, steps: int, *, actual: Callable[[list[Group]], float], noise: float = 0.0, seed: int = 0
) -> list[float]:
    """Steps of many kinds, a fifth of them with prompts. Returns how far off each one's prediction was."""
    rng = random.Random(seed)
    errors = []
    for _ in range(steps):
        rows = rng.randint(1, 8)
        groups = [Group(rng.choice((1000, 4000, 8000)), rows, rng.randint(rows, 900), rows)]
        prompt = rng.random() < 0.2
        if prompt:
            groups.append(Group(rng.choice((1000, 8000)), rng.randint(8, 60), 1500, 0))
        actual_ms = actual(groups) * rng.lognormvariate(0, noise)
        errors.append(abs(correction.costs.step_ms(groups) / actual_ms - 1))
        correction.note(COSTS.quiet_ms(groups), actual_ms, prompt=prompt)
    return errors


def test_without_steps_the_costs_are_the_measured_ones() -> None:
    assert CostCorrection(COSTS).costs == COSTS


def test_steps_as_predicted_change_nothing() -> None:
    correction = CostCorrection(COSTS)
    serve(correction, 50, actual=COSTS.step_ms)
    assert correction.costs.step_ms(PROMPT) == pytest.approx(COSTS.step_ms(PROMPT))


@pytest.mark.parametrize(
    "truth",
    [
        replace(COSTS, slowdown=2.0),
        replace(COSTS, slowdown=0.6),
        replace(COSTS, overhead_ms=4.0),
        replace(COSTS, slowdown=1.4, prompt_slowdown=0.7, overhead_ms=1.5),
    ],
    ids=["slower", "faster", "busy between steps", "all at once"],
)
def test_whatever_differs_from_the_quiet_node_is_learned_in_a_few_steps(truth: StepCosts) -> None:
    """Of times that scatter by a tenth, half lie more than 7 % from what they scatter around."""
    correction = CostCorrection(COSTS)
    errors = serve(correction, 300, actual=truth.step_ms, noise=0.1)
    assert median(errors[20:]) < 0.09
    assert correction.costs.step_ms(DECODING) == pytest.approx(truth.step_ms(DECODING), rel=0.1)
    assert correction.costs.step_ms(PROMPT) == pytest.approx(truth.step_ms(PROMPT), rel=0.1)


def test_what_is_added_to_each_step_is_told_from_a_slower_node() -> None:
    truth = replace(COSTS, overhead_ms=4.0)
    correction = CostCorrection(COSTS)
    serve(correction, 400, actual=truth.step_ms)
    assert correction.costs.overhead_ms == pytest.approx(4.0, rel=0.15)
    assert correction.costs.slowdown == pytest.approx(1.0, abs=0.05)


def test_decoding_says_nothing_of_what_prompts_add() -> None:
    correction = CostCorrection(COSTS)
    for _ in range(100):
        correction.note(COSTS.quiet_ms(DECODING), 2 * COSTS.step_ms(DECODING), prompt=False)
    ratio = correction.costs.step_ms(PROMPT) / COSTS.step_ms(PROMPT)
    assert ratio == pytest.approx(2, rel=0.15)
    for _ in range(100):
        correction.note(COSTS.quiet_ms(PROMPT), COSTS.step_ms(PROMPT), prompt=True)
    assert correction.costs.step_ms(PROMPT) == pytest.approx(COSTS.step_ms(PROMPT), rel=0.05)


def test_the_node_becoming_twice_as_slow_is_believed_after_a_dozen_steps() -> None:
    correction = CostCorrection(COSTS)
    serve(correction, 200, actual=COSTS.step_ms, noise=0.05)
    slow = replace(COSTS, slowdown=2.0)
    errors = serve(correction, 40, actual=slow.step_ms, noise=0.05, seed=1)
    assert errors[0] > 0.4
    assert median(errors[14:]) < 0.1


def test_one_stall_is_not_the_new_normal() -> None:
    correction = CostCorrection(COSTS)
    serve(correction, 100, actual=COSTS.step_ms, noise=0.05)
    before_ms = correction.costs.step_ms(DECODING)
    correction.note(COSTS.quiet_ms(DECODING), 1e9, prompt=False)
    assert before_ms < correction.costs.step_ms(DECODING) < 1.15 * before_ms


@pytest.mark.parametrize("actual_ms", [1e9, 1e-9])
def test_no_clock_makes_costs_worthless(actual_ms: float) -> None:
    correction = CostCorrection(COSTS)
    for number in range(500):
        groups = PROMPT if number % 2 else DECODING
        correction.note(COSTS.quiet_ms(groups), actual_ms, prompt=bool(number % 2))
    assert 1 / LIMIT <= correction.costs.slowdown <= LIMIT
    assert correction.costs.overhead_ms >= 0
    assert correction.costs.step_ms(DECODING) > 0


def test_a_clock_that_stands_still_teaches_nothing() -> None:
    correction = CostCorrection(COSTS)
    correction.note(COSTS.quiet_ms(DECODING), 0.0, prompt=False)
    correction.note(COSTS.quiet_ms([]), 1.0, prompt=False)
    assert correction.costs == COSTS


def test_costs_that_were_corrected_before_are_gone_on_with() -> None:
    truth = replace(COSTS, slowdown=1.4, prompt_slowdown=0.7, overhead_ms=1.5)
    correction = CostCorrection(truth)
    assert correction.costs == truth
    assert max(serve(correction, 50, actual=truth.step_ms)) < 1e-6
