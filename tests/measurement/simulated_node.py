"""A simulated node: a clock that steps advance, by more while the node is slow. Times in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lts_ray.measurement.latency import Latency
from lts_ray.measurement.timed_blocks import Yardstick, time_step
from lts_ray.timing import Step

Span = tuple[float, float, float]
"""From, until, and how many times slower the node is meanwhile."""


class SimulatedNode:
    """jitter: relative deviation of every single run, as a real step has in a quiet room."""

    def __init__(self, *, slow: Sequence[Span] = (), jitter: float = 0.0, seed: int = 0) -> None:
        self.now, self._slow, self._jitter = 0.0, sorted(slow), jitter
        self._rng = np.random.default_rng(seed)

    def clock(self) -> float:
        return self.now

    def slow_down(self, begin: float, end: float, factor: float) -> None:
        self._slow = sorted([*self._slow, (begin, end, factor)])

    def recover(self) -> None:
        self._slow = []

    def step(self, duration: float) -> Step:
        """A step that takes `duration` while the node is quick."""

        def run() -> None:
            self._work(duration * (1 + self._jitter * abs(self._rng.normal())))

        return run

    def _work(self, left: float) -> None:
        for begin, end, factor in self._slow:
            if end <= self.now:
                continue
            quick = min(max(begin - self.now, 0.0), left)
            self.now, left = self.now + quick, left - quick
            slow = min((end - self.now) / factor, left)
            if left > 0:
                self.now, left = self.now + slow * factor, left - slow
        self.now += left

    def yardstick(self, duration: float = 0.004) -> Yardstick:
        return Yardstick(self.step(duration), wait=nothing, clock=self.clock)

    def measure(self, duration: float, yardstick: Yardstick) -> Latency:
        return self.measure_step(self.step(duration), yardstick)

    def measure_step(self, step: Step, yardstick: Yardstick, *, seconds: float = 1.0) -> Latency:
        return time_step(
            step,
            yardstick,
            regime="decode",
            threads=1,
            seconds=seconds,
            wait=nothing,
            clock=self.clock,
        )


def nothing() -> None:
    pass


def bursts(*, until: float, mean_gap: float, mean_length: float, factor: float, seed: int) -> list[Span]:
    """Disturbances at random moments."""
    rng = np.random.default_rng(seed)
    spans, now = [], 0.0
    while now < until:
        now += rng.exponential(mean_gap)
        end = now + rng.exponential(mean_length)
        spans.append((now, end, factor))
        now = end
    return spans
