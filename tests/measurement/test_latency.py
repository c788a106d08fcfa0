from __future__ import annotations

import numpy as np
import pytest
import torch

from lts_ray.decoding.kv_cache import KVCache
from lts_ray.errors import LtsRayError
from lts_ray.measurement.latency import (
    MAX_RUNS,
    MIN_RUNS,
    Latency,
    decode_latency,
    prefill_latency,
    time_step,
    torch_threads,
)
from lts_ray.measurement.measure import Measurement, measure_submodels
from lts_ray.measurement.target import Target
from lts_ray.models.matformer import MatFormer


class FakeClock:
    """Advances only when a step 'runs'."""

    def __init__(self, durations: list[float]) -> None:
        self.now, self.durations, self.runs = 0.0, durations, 0

    def __call__(self) -> float:
        return self.now

    def step(self) -> None:
        self.now += self.durations[self.runs % len(self.durations)]
        self.runs += 1


def timed(clock: FakeClock, *, seconds: float) -> tuple[float, ...]:
    return time_step(clock.step, seconds=seconds, wait=lambda: None, warm_up=3, clock=clock)


def test_a_steady_step_is_run_ten_times_after_the_warm_up() -> None:
    clock = FakeClock([0.5])
    assert timed(clock, seconds=1000) == (500.0,) * MIN_RUNS
    assert clock.runs == MIN_RUNS + 3


def test_an_unsteady_step_is_run_until_the_time_is_over() -> None:
    clock = FakeClock([0.1, 0.3])
    times = timed(clock, seconds=5)
    assert MIN_RUNS < len(times) < MAX_RUNS
    assert clock.now == pytest.approx(5, abs=0.5)


def test_a_slow_step_is_run_ten_times_however_long_it_takes() -> None:
    assert len(timed(FakeClock([1.0, 9.0]), seconds=1)) == MIN_RUNS


def test_an_unsteady_quick_step_ends_at_the_most_runs() -> None:
    assert len(timed(FakeClock([0.001, 0.002]), seconds=1000)) == MAX_RUNS


def test_median_and_spread_come_from_the_raw_times() -> None:
    latency = Latency(regime="decode", threads=1, times_ms=(1.0, 2.0, 3.0, 4.0, 100.0))
    assert (latency.median_ms, latency.iqr_ms) == (3.0, 2.0)
    assert latency.is_unsteady
    assert not Latency(regime="decode", threads=1, times_ms=(3.0, 3.1, 3.2)).is_unsteady


def test_threads_are_set_and_restored_also_after_an_error() -> None:
    before = torch.get_num_threads()
    counts: list[int] = []

    def fail_with(threads: int) -> None:
        with torch_threads(threads) as count:
            counts.extend((count, torch.get_num_threads()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with(before + 1)
    assert counts == [before + 1, before + 1]
    assert torch.get_num_threads() == before
    with torch_threads(None) as count:
        assert count == before


def test_decode_attends_to_the_targets_context(universal: MatFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every timed step sees sequence_length tokens: the cache must be wound back between runs."""
    lengths: list[tuple[int, int]] = []
    forward = universal.forward

    def spy(tokens: torch.Tensor, *, cache: KVCache, **options: object) -> torch.Tensor:
        lengths.append((tokens.shape[1], int(cache.lengths.max())))
        return forward(tokens, cache=cache, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(universal, "forward", spy)
    target = Target(name="t", local=True, sequence_length=20, batch_size=3)
    decode_latency(universal, universal.config.universal, target, seconds=0)
    assert set(lengths) == {(1, 20)}
    lengths.clear()
    prefill_latency(universal, universal.config.universal, target, seconds=0)
    assert set(lengths) == {(20, 0)}


def test_measurements_come_in_order_and_survive_json(universal: MatFormer) -> None:
    target = Target(name="t", local=True, sequence_length=16)
    trained = list(universal.config.trained.values())
    results = measure_submodels(universal, [trained[0], trained[-1]], target)
    assert results[0].peak_memory_bytes < results[1].peak_memory_bytes
    for each in results:
        assert len(each.prefill.times_ms) >= MIN_RUNS
        assert each.cost.decode_ms == each.decode.median_ms > 0
        assert Measurement.from_json(each.to_json()) == each


def test_a_whole_context_can_be_measured_and_a_longer_one_is_refused(universal: MatFormer) -> None:
    """The decode step after a full context has no place of its own: it is measured one token earlier."""
    limit, submodel = universal.config.context_length, universal.config.universal
    measured = decode_latency(universal, submodel, Target(name="t", local=True, sequence_length=limit), seconds=0)
    assert np.all(np.asarray(measured.times_ms) > 0)
    with pytest.raises(LtsRayError, match=f"sequence_length {limit + 1} is longer than the model's context"):
        prefill_latency(universal, submodel, Target(name="t", local=True, sequence_length=limit + 1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_target_on_a_machine_without_one_says_so(universal: MatFormer) -> None:
    with pytest.raises(LtsRayError, match="wants CUDA"):
        measure_submodels(universal, [universal.config.universal], Target(name="t", local=True, device="cuda"))
