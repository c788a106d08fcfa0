"""How well a measurement repeats: one candidate measured several times, and how far the results lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np

from lts_ray.measurement.latency import Latency
from lts_ray.measurement.reference import Reference
from lts_ray.measurement.steps import Regime
from lts_ray.measurement.subjects.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of one regime's repeated measurements, in the order they ran."""

    latencies: tuple[Latency, ...]

    @property
    def median_ms(self) -> float:
        return median(each.median_ms for each in self.latencies)

    @property
    def relative_range(self) -> float:
        """Largest minus smallest median, over the middle one."""
        return relative_range([each.median_ms for each in self.latencies])

    @property
    def uncorrected_range(self) -> float:
        """What the range would be if the node's slowdowns were not corrected for."""
        return relative_range([float(np.median(each.times_ms)) for each in self.latencies])

    @property
    def interval_width(self) -> float:
        """What a single measurement said of itself: its interval's width over its median, the middle one of all."""
        return median((each.interval_ms[1] - each.interval_ms[0]) / each.median_ms for each in self.latencies)

    @property
    def slowdown(self) -> float:
        """The worst that stayed in any of the measurements."""
        return max(each.slowdown for each in self.latencies)


def repeatability(
    subject: Subject, reference: Reference, repeats: int, *, seconds: float = 2.0
) -> dict[Regime, Spread]:
    """Measure `subject` `repeats` times in turn against one reference, as a search would."""
    taken: dict[Regime, list[Latency]] = {"prefill": [], "decode": []}
    for _ in range(repeats):
        for regime, latencies in taken.items():
            latencies.append(reference.latency(regime, subject, seconds=seconds / 2))
    return {regime: Spread(latencies=tuple(latencies)) for regime, latencies in taken.items()}


def relative_range(values: list[float]) -> float:
    return (max(values) - min(values)) / median(values)
