"""How long a step takes: raw times, and the median and spread taken from them. Not a profiler.

The two regimes are timed apart: prefill (the target's batch of sequence_length tokens) and decode (one more token for
that batch, with KV cache).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from lts_ray.architecture import Submodel
from lts_ray.measurement.steps import Step, check_length, decode_context, decode_step, prefill_step
from lts_ray.measurement.target import Target
from lts_ray.models.matformer import MatFormer

Regime = Literal["prefill", "decode"]
MIN_RUNS = 10
MAX_RUNS = 200
STEADY = 0.05
"""Timing stops once the interquartile range is within this share of the median."""
UNSTEADY = 0.25


@dataclass(frozen=True, kw_only=True)
class Latency:
    """All timed runs of one step, in the order they ran."""

    regime: Regime
    threads: int
    times_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.times_ms))

    @property
    def iqr_ms(self) -> float:
        low, high = np.percentile(self.times_ms, (25, 75))
        return float(high - low)

    @property
    def is_unsteady(self) -> bool:
        """The spread is so wide that something else ran on the machine, or it throttled: distrust the median."""
        return self.iqr_ms > UNSTEADY * self.median_ms


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Run the block with `count` intra-op threads (None: as many as now), then restore the number there was."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def prefill_latency(model: MatFormer, submodel: Submodel, target: Target, *, seconds: float = 1.0) -> Latency:
    check_length(model, target.sequence_length)
    with torch_threads(target.threads), torch.inference_mode():
        step = prefill_step(model, submodel, rows=target.batch_size, tokens=target.sequence_length)
        times = time_step(step, seconds=seconds, wait=waiter(model))
    return Latency(regime="prefill", threads=target.threads, times_ms=times)


def decode_latency(model: MatFormer, submodel: Submodel, target: Target, *, seconds: float = 1.0) -> Latency:
    check_length(model, target.sequence_length)
    context = decode_context(model, target.sequence_length)
    with torch_threads(target.threads), torch.inference_mode():
        step = decode_step(model, [submodel] * target.batch_size, context=context)
        times = time_step(step, seconds=seconds, wait=waiter(model))
    return Latency(regime="decode", threads=target.threads, times_ms=times)


def time_step(
    step: Step, *, seconds: float, wait: Step, warm_up: int = 3, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, ...]:
    """Time `step` at least MIN_RUNS times, until the times are steady or `seconds` are over. Milliseconds."""
    started = clock()
    for _ in range(warm_up):
        step()
    wait()
    times: list[float] = []
    while len(times) < MAX_RUNS:
        times.append(timed(step, wait=wait, clock=clock))
        if len(times) >= MIN_RUNS:
            low, middle, high = np.percentile(times, (25, 50, 75))
            if high - low <= STEADY * middle or clock() - started > seconds:
                break
    return tuple(times)


def timed(step: Step, *, wait: Step, clock: Callable[[], float] = time.perf_counter) -> float:
    """One run of `step` in milliseconds. `wait` returns when the device has done its work."""
    begin = clock()
    step()
    wait()
    return round(
        (clock() - begin) * 1000, 4
    )  # as it is logged, so that a resumed search computes with the same numbers


def waiter(model: MatFormer) -> Step:
    """What to call before the clock is read: a GPU only queues work, a CPU has done it."""
    if model.embed_tokens.weight.device.type == "cuda":
        return torch.cuda.synchronize
    return lambda: None
