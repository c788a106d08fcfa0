from __future__ import annotations

import pytest

from serve.drift import LIMIT, Drift
from tests.serve.models import STEP_COST


def test_without_steps_the_cost_is_the_measured_one() -> None:
    assert Drift(STEP_COST).cost == STEP_COST


def test_steps_that_are_always_twice_as_slow_double_their_phase_and_no_other() -> None:
    drift = Drift(STEP_COST)
    nominal_ms = STEP_COST.decode_ms(neurons=[24, 96], context_tokens=30)
    for _ in range(200):
        drift.note("decode", [24, 96], [10, 20], actual_ms=2 * nominal_ms)
    assert drift.cost.decode == pytest.approx([2 * each for each in STEP_COST.decode], rel=1e-3)
    assert drift.cost.prefill == STEP_COST.prefill
    for _ in range(50):
        drift.note("prefill", [24], [10], actual_ms=STEP_COST.prefill_ms(tokens=10, neurons=24) / 2)
    assert drift.cost.prefill == pytest.approx([each / 2 for each in STEP_COST.prefill], rel=1e-3)


def test_one_stall_is_not_the_new_normal() -> None:
    drift = Drift(STEP_COST)
    drift.note("decode", [24], [10], actual_ms=1e9)
    assert drift.cost.decode[0] == pytest.approx(STEP_COST.decode[0] * LIMIT ** (1 / 16))


def test_a_clock_that_stands_still_teaches_nothing() -> None:
    drift = Drift(STEP_COST)
    drift.note("prefill", [24], [10], actual_ms=0.0)
    assert drift.cost == STEP_COST
