from __future__ import annotations

import numpy as np
import pytest

from lts_ray.errors import LtsRayError
from lts_ray.measurement.latency import Latency, TimedBlock, median_interval
from lts_ray.measurement.measurement import Measurement

BEFORE_BLOCKS = {
    "prefill": {"median_ms": 2.0, "iqr_ms": 1.0, "threads": 2, "times_ms": [1.0, 2.0, 4.5]},
    "decode": {"median_ms": 0.5, "iqr_ms": 0.0, "threads": 2, "times_ms": [0.5]},
    "peak_memory_bytes": 1234,
}
"""A record of version 0.1.0: times without blocks."""


def latency(*blocks: tuple[float, tuple[float, ...]]) -> Latency:
    """From pairs of a slowdown and times."""
    return Latency(
        regime="decode", threads=1, blocks=tuple(TimedBlock(slowdown=slow, times_ms=times) for slow, times in blocks)
    )


def test_median_and_spread_come_from_the_raw_times() -> None:
    found = latency((1.0, (1.0, 2.0, 3.0, 4.0, 100.0)))
    assert (found.median_ms, found.iqr_ms) == (3.0, 2.0)
    assert found.is_unsteady
    assert not latency((1.0, (3.0, 3.1, 3.2))).is_unsteady


def test_times_are_divided_by_their_blocks_slowdown() -> None:
    found = latency((1.0, (10.0, 10.2)), (2.0, (20.2, 20.4)), (1.5, (15.0,)))
    assert found.corrected_ms == pytest.approx((10.0, 10.2, 10.1, 10.2, 10.0))
    assert found.times_ms == (10.0, 10.2, 20.2, 20.4, 15.0)
    assert found.median_ms == pytest.approx(10.1)
    assert (found.slowdown, found.worst_slowdown) == (1.5, 2.0)


def test_a_slowdown_that_stayed_is_unsteady_however_narrow_the_interval() -> None:
    found = latency(*[(2.0, (20.0, 20.0))] * 6)
    assert found.interval_ms == (10.0, 10.0)
    assert found.is_unsteady


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (12, 3), (24, 7)], ids=str)
def test_ranks_of_the_interval_are_those_of_the_sign_tests_tables(count: int, rank: int) -> None:
    values = [float(each) for each in range(1, count + 1)]
    assert median_interval(values) == (rank, count + 1 - rank)


@pytest.mark.parametrize("blocks", [6, 9, 24])
def test_the_interval_holds_the_true_median_as_often_as_it_says(blocks: int) -> None:
    """Skewed times whose blocks share a moment: 1,000 repetitions have a standard error of 0.7 %."""
    rng = np.random.default_rng(0)
    moment = 1 + 0.1 * rng.exponential(size=(1000, blocks, 1))
    times = moment * (1 + 0.02 * rng.exponential(size=(1000, blocks, 5)))
    many = np.median(
        (1 + 0.1 * rng.exponential(size=50_000))[:, None] * (1 + 0.02 * rng.exponential(size=(50_000, 5))), axis=1
    )
    truth = float(np.median(many))
    held = 0
    for each in times:
        low, high = latency(*((1.0, tuple(block)) for block in each)).interval_ms
        held += low <= truth <= high
    assert held / 1000 >= 0.94


def test_a_measurement_survives_json() -> None:
    blocks = (TimedBlock(times_ms=(0.1234, 0.2)), TimedBlock(times_ms=(0.3,), slowdown=1.0567))
    prefill = Latency(regime="prefill", threads=3, blocks=blocks, discarded=(blocks[1],), reference_ms=4.5678)
    measurement = Measurement(prefill=prefill, decode=latency((1.0, (2.0,))), peak_memory_bytes=10)
    again = Measurement.from_json(measurement.to_json())
    assert again == measurement
    assert again.cost == measurement.cost


def test_a_record_from_before_blocks_gives_the_numbers_it_always_gave() -> None:
    measurement = Measurement.from_json(BEFORE_BLOCKS)
    assert (measurement.cost.prefill_ms, measurement.cost.decode_ms) == (2.0, 0.5)
    assert measurement.prefill.threads == 2
    assert measurement.prefill.times_ms == (1.0, 2.0, 4.5)
    assert measurement.prefill.reference_ms is None
    assert Measurement.from_json(measurement.to_json()) == measurement


def test_a_latency_without_times_is_refused() -> None:
    for blocks in ((), ((1.0, ()),), ((0.0, (1.0,)),)):
        with pytest.raises(LtsRayError, match="needs blocks, each with times and a positive slowdown"):
            latency(*blocks)


@pytest.mark.parametrize("broken", [{}, {**BEFORE_BLOCKS, "decode": {"threads": 1, "blocks": [{"slowdown": "x"}]}}])
def test_a_broken_record_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(LtsRayError, match="a measurement is not usable"):
        Measurement.from_json(broken)
