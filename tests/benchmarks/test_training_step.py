"""The comparison of training steps takes turns, leaves out the warm-up and divides what it says it divides."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest
import torch

from benchmarks.training_step import MIXED, SEPARATE, StepTimes, run
from lts_ray.errors import LtsRayError
from lts_ray.training.run_settings import ModelSettings, TrainingSettings

MODEL = ModelSettings(vocab_size=32, d_model=8, n_head=2, n_kv_head=1, n_layer=1, d_ff=16, context_length=8)
OPTIONS = TrainingSettings(batch_size=2, sequence_length=4, precision="float32", probabilities={"S": 1, "XL": 3})


def test_every_contender_has_a_step_a_round_and_ratios_are_of_the_plain_ones_together() -> None:
    """With a clock that ticks one second a reading, every step takes one second."""
    ticks = count()
    told: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    times = run(
        MODEL, OPTIONS, rounds=3, warmup=1, clock=lambda: float(next(ticks)), progress=lambda *each: told.append(each)
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.get_num_threads() == threads
    assert set(times.times_ms.values()) == {(1000.0, 1000.0, 1000.0)}
    assert times.plain == ["plain S", "plain M", "plain L", "plain XL"]
    assert times.ratio(MIXED) == times.ratio(SEPARATE) == (0.25, 0.25, 0.25)
    found = json.loads(json.dumps(times.to_json()))
    assert found["ratio_to_plain"] == {"mixed": 0.25, "separate": 0.25}
    assert found["plain_together_ms"] == 4000.0
    assert found["device"] == "cpu"


def test_a_ratio_compares_steps_of_the_same_round_and_the_sampled_mean_weighs_by_probability() -> None:
    config = MODEL.config(32)
    times_ms = {MIXED: (1.0, 20.0, 3.0), "sampled S": (4.0,) * 3, "sampled XL": (8.0,) * 3}
    times_ms |= {f"plain {name}": (1.0, 10.0, 1.0) for name in config.trained}
    times = StepTimes(
        config=config, options=OPTIONS, precision="float32", threads=1, times_ms=times_ms, flops={},
        sampled={"S": 0.25, "XL": 0.75},
    )  # fmt: skip
    assert times.ratio(MIXED) == (0.375, 0.5, 0.625)  # of 0.25, 0.5 and 0.75
    assert times.sampled_ms == 7.0
    with pytest.raises(LtsRayError, match="at least 2 rounds"):
        run(MODEL, OPTIONS, rounds=1)


def test_steps_are_timed_on_the_device_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    times = run(MODEL, replace(OPTIONS, device="auto"), rounds=2, warmup=0)
    assert (times.options.device, times.to_json()["device"]) == ("cpu", "cpu")
    with pytest.raises(LtsRayError, match="is cuda, but torch finds no CUDA GPU"):
        run(MODEL, replace(OPTIONS, device="cuda"), rounds=2, warmup=0)
