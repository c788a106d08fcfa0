from __future__ import annotations

import asyncio
import mmap
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from benchmarks.load.step_log import StepLog
from benchmarks.soak import growth, measure_soak, resident_bytes, sampled
from lts_ray.errors import LtsRayError
from serve.engine.observer import StepRecord
from tests.benchmarks.load.loads import COSTS, local_model

MB = 2**20


def record(predicted_ms: float, actual_ms: float) -> StepRecord:
    return StepRecord(
        at_s=0.0,
        predicted_ms=predicted_ms,
        actual_ms=actual_ms,
        decoded=1,
        prompt_tokens=0,
        reused_tokens=0,
        switches=0,
        preempted=0,
        running=1,
        waiting=0,
        kv_usage=0.0,
    )


def test_resident_memory_is_what_has_been_written_to() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 64 * MB) as held:  # an array could be given memory that this process has had before
        held.write(b"x" * len(held))
        assert 60 * MB < resident_bytes() - before < 160 * MB
    with pytest.raises(LtsRayError, match="cannot read the memory of process 999999999"):
        resident_bytes(999_999_999)


def test_growth_is_the_slope_of_the_line_without_the_settling_first_fifth() -> None:
    """500 MB and 2 more a minute; what comes in the first two of ten minutes is no growth."""
    samples = [(60.0 * minute, int((500 + 2 * minute) * MB)) for minute in range(11)]
    samples[0], samples[1] = (0.0, 100 * MB), (60.0, 300 * MB)
    found = growth(samples)
    assert found is not None
    assert found.mb_per_minute == pytest.approx(2.0)
    assert found.minutes == pytest.approx(8.0)
    assert found.mean_mb == pytest.approx(512.0)
    assert found.share == pytest.approx(16 / 512)


def test_noise_is_no_growth_and_shrinking_is_below_it() -> None:
    rng = np.random.default_rng(0)
    noisy = growth([(float(second), int((500 + rng.normal(0, 2)) * MB)) for second in range(600)])
    assert noisy is not None
    assert abs(noisy.share) < 0.01
    shrinking = growth([(60.0 * minute, (500 - 3 * minute) * MB) for minute in range(10)])
    assert shrinking is not None
    assert shrinking.share < 0
    assert growth([]) is None
    assert growth([(0.0, MB)]) is None


def test_memory_is_sampled_until_the_load_is_over() -> None:
    samples: list[tuple[float, int]] = []

    async def watch() -> None:
        watcher = asyncio.create_task(sampled(samples, clock=monotonic, every_s=0.001))
        while len(samples) < 3:
            await asyncio.sleep(0.001)
        watcher.cancel()

    asyncio.run(watch())
    assert all(resident > 0 for _, resident in samples)
    assert [at for at, _ in samples] == sorted(at for at, _ in samples)


def test_the_median_prediction_error_is_to_a_tenth_of_a_percent() -> None:
    log = StepLog()
    assert log.median_error is None
    for predicted in (1.0, 0.9504, 1.1206, 9.0, 1.3):  # errors 0, 4.96, 12.06, 800 and 30 %
        log.stepped(record(predicted, 1.0))
    log.stepped(record(1.0, 0.0))  # too short for the clock
    assert log.steps == 5
    assert log.median_error == pytest.approx(0.1206, abs=0.0005)


def test_a_soak_counts_what_became_of_its_requests(model_dir: Path) -> None:
    done: list[int] = []
    result = measure_soak(
        local_model(model_dir),
        costs=COSTS,
        seconds=0.7,
        load=0.8,
        policy="deadline",
        progress=lambda number, total: done.append(number),
    )
    assert result.requests == len(done) > 0
    assert done[-1] == result.requests
    assert result.failed == 0
    assert result.steps is not None
    assert result.steps > 0
    assert result.step_error is not None
    assert result.attainment is not None
    assert result.lines[0].startswith(f"{result.requests} requests in 0.0 minutes")
    assert result.to_json()["memory"] is None or "mb_per_minute" in result.to_json()["memory"]


def test_a_server_elsewhere_is_not_watched_by_mistake(model_dir: Path) -> None:
    with pytest.raises(LtsRayError, match="--pid"):
        measure_soak(
            local_model(model_dir), costs=COSTS, seconds=1, load=0.8, policy="deadline", url="http://127.0.0.1:9"
        )
