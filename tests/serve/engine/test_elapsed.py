"""What the last steps say of the next ones: on times that are known, and on noise whose quantiles are."""

from __future__ import annotations

import numpy as np
import pytest

from serve.engine.elapsed import HORIZONS_MS, RENEWED, SPREAD, ElapsedTime
from serve.policies.budget import KINDS

WHOLE = KINDS.index("e2e")


def noisy(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and passed times of steps of 1 to 3 ms; one in fifty stalls for 10 ms."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(1, 3, count)
    return predicted, predicted * rng.lognormal(0, 0.2, count) + 10 * (rng.uniform(size=count) < 0.02)


def test_before_any_step_what_was_believed_holds() -> None:
    deviation = ElapsedTime(attainment=0.99).deviation
    assert deviation.likely == ((1,) * len(HORIZONS_MS),) * 3
    assert deviation.safe == ((SPREAD,) * len(HORIZONS_MS),) * 3


def test_steps_that_take_twice_as_long_are_expected_to() -> None:
    elapsed = ElapsedTime(attainment=0.9)
    for _ in range(40 * RENEWED):
        elapsed.note(2.0, 4.0, prompt=False)
    near, far = elapsed.deviation.likely[WHOLE][0], elapsed.deviation.likely[WHOLE][-1]
    assert near == pytest.approx(2)
    assert 1 < far < near, "of long stretches there have been few"


@pytest.mark.parametrize("attainment", [0.8, 0.95])
def test_what_is_safe_holds_as_often_as_it_is_to(attainment: float) -> None:
    """On steps that it has not seen, for each horizon of which it has seen enough."""
    elapsed = ElapsedTime(attainment=attainment)
    for predicted, passed in zip(*noisy(20_000, seed=0), strict=True):
        elapsed.note(float(predicted), float(passed), prompt=False)
    predicted, passed = (np.concatenate([[0], np.cumsum(times)]) for times in noisy(20_000, seed=1))
    likelies, safes = elapsed.deviation.likely[WHOLE], elapsed.deviation.safe[WHOLE]
    for horizon, likely, safe in zip(HORIZONS_MS[:4], likelies, safes, strict=False):
        stops = np.searchsorted(predicted, predicted[:15_000] + horizon)
        ratios = (passed[stops] - passed[:15_000]) / (predicted[stops] - predicted[:15_000])
        assert np.mean(ratios <= safe) == pytest.approx(attainment, abs=0.06)
        assert np.mean(ratios <= likely) == pytest.approx(0.5, abs=0.1)


def test_the_reserve_of_a_short_stretch_is_the_larger() -> None:
    elapsed = ElapsedTime(attainment=0.99)
    for predicted, passed in zip(*noisy(2_048, seed=2), strict=True):
        elapsed.note(float(predicted), float(passed), prompt=False)
    safe = elapsed.deviation.safe[WHOLE]
    assert safe[0] > 2 > safe[3] > 1


def test_a_node_that_has_become_slow_is_known_by_its_last_steps() -> None:
    elapsed = ElapsedTime(attainment=0.99)
    for ratio, steps in ((1.0, 4_000), (3.0, 2_048)):
        for _ in range(steps):
            elapsed.note(1.0, ratio, prompt=False)
    assert elapsed.deviation.likely[WHOLE][0] == pytest.approx(3, abs=0.1)


def test_a_first_token_has_the_deviation_of_the_steps_that_read_prompts() -> None:
    """Every 100 steps a prompt is read for ten, and such steps take twice what was predicted."""
    elapsed = ElapsedTime(attainment=0.9)
    for step in range(2_048):
        prompt = step % 100 < 10
        elapsed.note(1.0, 2.0 if prompt else 1.0, prompt=prompt)
    first, between, whole = (elapsed.deviation.likely[row][1] for row in range(3))
    assert (first, between, whole) == (2, 1, 1)
    assert [float(elapsed.deviation.at(kind, np.array(4.0))[0]) for kind in KINDS] == [2, 1, 1]
