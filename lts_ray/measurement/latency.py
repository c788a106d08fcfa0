"""How long a step takes: blocks of raw times, and the median and its interval taken from them. Not how to time.

A node is not equally fast at all moments. So a fixed reference step is timed before and after each block, and a block
carries its slowdown: what the reference took around it, over what it takes at a quiet moment. A block's times are
divided by its slowdown, so that a candidate measured while the node was slow compares with one measured before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from typing import Any

import numpy as np

from lts_ray.errors import LtsRayError
from lts_ray.measurement.steps import Regime

CONFIDENCE = 0.95
UNSTEADY = 0.15
"""An interval wider than this share of the latency, or a larger slowdown that stayed, says: distrust it."""
UNSTEADY_MEANS = (
    f"the 95 % interval is wider than {UNSTEADY:.0%} of the latency, or the machine stayed slower by as much: "
    "something else ran on it, or it throttled; distrust the latency, and measure again"
)


@dataclass(frozen=True, kw_only=True)
class TimedBlock:
    """Runs timed one right after the other."""

    times_ms: tuple[float, ...]
    """As the clock gave them."""
    slowdown: float = 1.0
    """Of the node then."""

    @property
    def corrected_ms(self) -> tuple[float, ...]:
        """The times as they would have been at a quiet moment."""
        return tuple(time_ms / self.slowdown for time_ms in self.times_ms)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """All timed runs of one step."""

    regime: Regime
    threads: int
    blocks: tuple[TimedBlock, ...]
    """In the order they ran."""
    discarded: tuple[TimedBlock, ...] = ()
    """Blocks that ran at a slow moment and were measured again."""
    reference_ms: float | None = None
    """What the reference takes at a quiet moment, the unit of the slowdowns; None where none was timed."""
    pooled_ms: tuple[float, float, float] | None = None
    """What all candidates' latencies say of this one's, with the bounds of its 95 % interval (see `pooled`); in no log.
    None where the measured one stands for itself."""

    def __post_init__(self) -> None:
        if not self.blocks or any(
            not block.times_ms or block.slowdown <= 0 for block in (*self.blocks, *self.discarded)
        ):
            raise LtsRayError("a latency needs blocks, each with times and a positive slowdown")

    @property
    def times_ms(self) -> tuple[float, ...]:
        """Of all blocks, as the clock gave them."""
        return tuple(time_ms for block in self.blocks for time_ms in block.times_ms)

    @cached_property
    def corrected_ms(self) -> tuple[float, ...]:
        return tuple(time_ms for block in self.blocks for time_ms in block.corrected_ms)

    @cached_property
    def median_ms(self) -> float:
        return float(np.median(self.corrected_ms))

    @property
    def value_ms(self) -> float:
        """The pooled latency, or else the measured median: what fronts are drawn from."""
        return self.median_ms if self.pooled_ms is None else self.pooled_ms[0]

    @property
    def iqr_ms(self) -> float:
        low, high = np.percentile(self.corrected_ms, (25, 75))
        return float(high - low)

    @property
    def interval_ms(self) -> tuple[float, float]:
        """Of `value_ms`."""
        return self.measured_ms if self.pooled_ms is None else self.pooled_ms[1:]

    @cached_property
    def measured_ms(self) -> tuple[float, float]:
        """Holds the median with a probability of at least 95 %: order statistics of the blocks' medians.

        Of blocks, because times within a block share their moment and are no independent draws; of single times where
        there is one block. What the baseline itself is off by is not in it: all candidates of one reference share that.
        """
        if len(self.blocks) == 1:
            return median_interval(self.corrected_ms)
        return median_interval([float(np.median(block.corrected_ms)) for block in self.blocks])

    @property
    def slowdown(self) -> float:
        """What the blocks that count were corrected by, in the middle: it stayed after measuring again."""
        return float(np.median([block.slowdown for block in self.blocks]))

    @property
    def worst_slowdown(self) -> float:
        """Of all blocks, also the discarded ones: how slow the node was seen to be."""
        return max(block.slowdown for block in (*self.blocks, *self.discarded))

    @property
    def is_unsteady(self) -> bool:
        """Something else ran on the machine, or it throttled, for too much of the time: distrust the value."""
        low, high = self.interval_ms
        return high - low > UNSTEADY * self.value_ms or self.slowdown > 1 + UNSTEADY

    def to_json(self) -> dict[str, Any]:
        """As measured. `from_json` takes the raw times; the numbers before them are for readers."""
        return {
            "median_ms": round(self.median_ms, 4),
            "iqr_ms": round(self.iqr_ms, 4),
            "interval_ms": [round(bound_ms, 4) for bound_ms in self.measured_ms],
            "slowdown": round(self.slowdown, 4),
            "threads": self.threads,
            "reference_ms": self.reference_ms,
            "blocks": [_block_to_json(block) for block in self.blocks],
            "discarded": [_block_to_json(block) for block in self.discarded],
        }

    @classmethod
    def from_json(cls, regime: Regime, value: Mapping[str, Any]) -> Latency:
        """Raises LtsRayError, KeyError, TypeError or ValueError. A record of times without blocks is one block."""
        if "blocks" not in value:
            times = tuple(map(float, value["times_ms"]))
            return cls(regime=regime, threads=int(value["threads"]), blocks=(TimedBlock(times_ms=times),))
        reference = value["reference_ms"]
        return cls(
            regime=regime,
            threads=int(value["threads"]),
            blocks=tuple(_block_from_json(block) for block in value["blocks"]),
            discarded=tuple(_block_from_json(block) for block in value["discarded"]),
            reference_ms=None if reference is None else float(reference),
        )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bounds that hold the median of what `values` are drawn from with a probability of at least 95 %.

    The k-th smallest and k-th largest value miss it only when fewer than k of n values fall on one side of it, which
    is a fair coin's chance whatever the distribution. Five values or fewer give all there is, their range, which is
    right less often.
    """
    ordered = sorted(values)
    n, k, missed = len(ordered), 1, 2 / 2 ** len(ordered)
    while missed + 2 * comb(n, k) / 2**n <= 1 - CONFIDENCE:
        missed += 2 * comb(n, k) / 2**n
        k += 1
    return ordered[k - 1], ordered[n - k]


def _block_to_json(block: TimedBlock) -> dict[str, Any]:
    return {"slowdown": block.slowdown, "times_ms": list(block.times_ms)}


def _block_from_json(value: Mapping[str, Any]) -> TimedBlock:
    return TimedBlock(slowdown=float(value["slowdown"]), times_ms=tuple(map(float, value["times_ms"])))
