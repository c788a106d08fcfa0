from __future__ import annotations

import math

import numpy as np
import pytest

from lts_ray.errors import LtsRayError
from serve.traffic.traces import TRACES, azure_day, gamma, poisson, ramp, trace_named


@pytest.mark.parametrize("name", TRACES)
def test_the_mean_number_of_arrivals_is_rate_times_seconds(name: str) -> None:
    """Over 400 loads. A count's variance is at most about CV² times its mean: five deviations of the mean of 400."""
    rate, seconds, loads = 5.0, 20.0, 400
    counts = [len(TRACES[name](rate, seconds, np.random.default_rng(seed))) for seed in range(loads)]
    deviation = math.sqrt(8 * rate * seconds / loads)
    assert abs(np.mean(counts) - rate * seconds) < 5 * deviation


@pytest.mark.parametrize("name", TRACES)
def test_times_grow_within_the_load_and_depend_on_the_seed_alone(name: str) -> None:
    times = TRACES[name](50.0, 3.0, np.random.default_rng(7))
    assert len(times) > 0
    assert times[0] >= 0
    assert times[-1] < 3000
    assert np.all(np.diff(times) >= 0)
    assert np.array_equal(times, TRACES[name](50.0, 3.0, np.random.default_rng(7)))
    assert not np.array_equal(times[:10], TRACES[name](50.0, 3.0, np.random.default_rng(8))[:10])


@pytest.mark.parametrize("cv2", [1.0, 2.0, 4.0, 8.0])
def test_gaps_of_the_gamma_trace_have_the_mean_and_cv2_that_are_asked_for(cv2: float) -> None:
    """100,000 gaps know their CV² to some 2 %."""
    gaps = np.diff(gamma(1000.0, 100.0, np.random.default_rng(1), cv2=cv2))
    assert np.mean(gaps) == pytest.approx(1.0, rel=5 * math.sqrt(cv2 / len(gaps)))
    assert np.var(gaps) / np.mean(gaps) ** 2 == pytest.approx(cv2, rel=0.15)


def test_gaps_of_a_poisson_trace_are_exponential() -> None:
    gaps = np.diff(poisson(1000.0, 100.0, np.random.default_rng(2)))
    assert np.var(gaps) / np.mean(gaps) ** 2 == pytest.approx(1.0, rel=0.05)
    assert np.mean(gaps > 1.0) == pytest.approx(math.exp(-1), abs=0.01)


def test_a_bursty_load_does_not_begin_with_a_burst() -> None:
    """With an ordinary first gap the mean would be (8 - 1) / 2 = 3.5 arrivals higher, for long loads."""
    counts = [len(gamma(2.0, 5.0, np.random.default_rng(seed), cv2=8.0)) for seed in range(4000)]
    assert np.mean(counts) == pytest.approx(10.0, abs=5 * math.sqrt(8 * 10 / 4000))


def test_a_ramp_grows_from_its_start_to_its_end_in_a_straight_line() -> None:
    times = ramp(20_000.0, 10.0, np.random.default_rng(3), start=0.5, end=1.5) / 10_000
    counts, _ = np.histogram(times, bins=10, range=(0, 1))
    expected = 20_000 * (0.5 + (np.arange(10) + 0.5) / 10)
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    falling = ramp(20_000.0, 10.0, np.random.default_rng(3), start=1.0, end=0.0) / 10_000
    assert np.mean(falling) == pytest.approx(1 / 3, abs=0.01)


def test_the_day_has_a_quiet_night_and_a_busy_noon() -> None:
    """A quarter of the day each: without bursts 0.25 ∓ sin(π / 4) / 2π of the load, 1 : 2.6."""
    times = np.concatenate([azure_day(500.0, 60.0, np.random.default_rng(seed)) for seed in range(20)]) / 60_000
    night, noon = np.mean((times < 0.125) | (times > 0.875)), np.mean(np.abs(times - 0.5) < 0.125)
    assert noon / night == pytest.approx(2.64, rel=0.15)


def test_the_day_has_bursts_of_minutes() -> None:
    """Counts of neighbouring minutes differ by more than chance: half the mean square is the mean for a smooth rate."""
    counts, _ = np.histogram(azure_day(500.0, 60.0, np.random.default_rng(0)), bins=1440, range=(0, 60_000))
    assert np.mean(np.diff(counts) ** 2) / 2 > 1.5 * np.mean(counts)


def test_what_cannot_be_a_trace_is_refused_in_one_line() -> None:
    with pytest.raises(LtsRayError, match=r"unknown trace 'sunday'; known: poisson, .*azure-day"):
        trace_named("sunday")
    with pytest.raises(LtsRayError, match="CV² must be above 0"):
        gamma(1.0, 1.0, np.random.default_rng(0), cv2=0.0)
    with pytest.raises(LtsRayError, match="rate and a time above 0"):
        poisson(0.0, 1.0, np.random.default_rng(0))
    with pytest.raises(LtsRayError, match="a ramp goes between"):
        ramp(1.0, 1.0, np.random.default_rng(0), start=0.0, end=0.0)
