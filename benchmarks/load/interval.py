"""A mean over seeds and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from scipy.stats import t as student


@dataclass(frozen=True, kw_only=True)
class Mean:
    """low, high: the 95 % interval of the mean by Student's t; None of a single value."""

    mean: float
    low: float | None
    high: float | None
    count: int

    def text(self, *, scale: float = 1.0, decimals: int = 1) -> str:
        """`94.2 ± 1.1`, in units of 1 / scale."""
        value = f"{scale * self.mean:.{decimals}f}"
        return value if self.high is None else f"{value} ± {scale * (self.high - self.mean):.{decimals}f}"

    def to_json(self) -> dict[str, float | int | None]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}


def mean_of(values: Sequence[float]) -> Mean | None:
    """None of no values."""
    if not values:
        return None
    middle = mean(values)
    if len(values) == 1:
        return Mean(mean=middle, low=None, high=None, count=1)
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return Mean(mean=middle, low=middle - half, high=middle + half, count=len(values))
