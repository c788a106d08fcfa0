"""The comparison of training steps takes turns, leaves out the warm-up and divides what it says it divides."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest
import torch

from benchmarks.common.scale import Scale
from benchmarks.training_step import MIXED, SEPARATE, StepTimes, compare_steps
from lts_ray.errors import LtsRayError
from lts_ray.training.run_settings import ModelSettings, TrainingSettings

MODEL = ModelSettings(vocab_size=32, d_model=8, n_head=2, n_kv_head=1, n_layer=1, d_ff=16, context_length=8)
OPTIONS = TrainingSettings(
    batch_size=2, sequence_length=4, precision="float32", threads=1, probabilities={"S": 1, "XL": 3}
)
SCALE = Scale(name="tiny", model=MODEL, training=OPTIONS)


def test_every_kind_of_step_has_its_turn_and_ratios_are_of_the_plain_ones_together() -> None:
    """With a clock that ticks one second a reading, every step takes one second."""
    ticks = count()
    told: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    times = compare_steps(
        SCALE, rounds=3, warmup=1, clock=lambda: float(next(ticks)), progress=lambda *done: told.append(done)
    )
    assert told == [(turn, 4 * 10) for turn in range(1, 41)]
    assert torch.get_num_threads() == threads
    assert set(times.times_ms.values()) == {(1000.0, 1000.0, 1000.0)}
    assert times.plain == ["plain S", "plain M", "plain L", "plain XL"]
    assert times.ratio(MIXED) == times.ratio(SEPARATE) == (0.25, 0.25, 0.25)
    record = json.loads(json.dumps(times.to_json()))
    assert record["ratio_to_plain"] == {"mixed": 0.25, "separate": 0.25}
    assert record["plain_together_ms"] == 4000.0
    assert record["scale"]["training"]["device"] == "cpu"


def test_a_ratio_compares_steps_of_the_same_round_and_the_sampled_mean_weighs_by_probability() -> None:
    times_ms = {MIXED: (1.0, 20.0, 3.0), "sampled S": (4.0,) * 3, "sampled XL": (8.0,) * 3}
    times_ms |= {f"plain {name}": (1.0, 10.0, 1.0) for name in MODEL.names}
    times = StepTimes(scale=SCALE, times_ms=times_ms, flops={})
    assert times.ratio(MIXED) == (0.375, 0.5, 0.625)  # of 0.25, 0.5 and 0.75
    assert times.sampled_ms == 7.0
    with pytest.raises(LtsRayError, match="at least 2 rounds"):
        compare_steps(SCALE, rounds=1)


def test_steps_are_timed_on_the_device_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    times = compare_steps(replace(SCALE, training=replace(OPTIONS, device="auto")), rounds=2, warmup=0)
    assert times.scale.training.device == "cpu"
    with pytest.raises(LtsRayError, match="is cuda, but torch finds no CUDA GPU"):
        compare_steps(replace(SCALE, training=replace(OPTIONS, device="cuda")), rounds=2, warmup=0)
