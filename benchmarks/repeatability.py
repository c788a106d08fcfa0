"""How well a measurement repeats: one candidate measured several times, and how far the results lie apart."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from benchmarks.common.command import Threads, run_command
from lts_ray.cli.options import Model
from lts_ray.console import print_rows
from lts_ray.measurement.latency import Latency
from lts_ray.measurement.reference import Reference
from lts_ray.measurement.steps import Regime
from lts_ray.measurement.subjects.subject import Subject, UniversalSubjects, prepare
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.target import Target


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of one regime's repeated measurements, in the order they ran."""

    latencies: tuple[Latency, ...]

    @property
    def median_ms(self) -> float:
        return median(latency.median_ms for latency in self.latencies)

    @property
    def relative_range(self) -> float:
        """Largest minus smallest median, over the middle one."""
        return relative_range([latency.median_ms for latency in self.latencies])

    @property
    def uncorrected_range(self) -> float:
        """What the range would be if the node's slowdowns were not corrected for."""
        return relative_range([float(np.median(latency.times_ms)) for latency in self.latencies])

    @property
    def interval_width(self) -> float:
        """What a single measurement said of itself: its interval's width over its median, the middle one of all."""
        return median(
            (latency.interval_ms[1] - latency.interval_ms[0]) / latency.median_ms for latency in self.latencies
        )

    @property
    def slowdown(self) -> float:
        """The worst that stayed in any of the measurements."""
        return max(latency.slowdown for latency in self.latencies)


def measure_repeatedly(
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


def repeatability(
    model: Model = DEFAULT_MODEL,
    submodel: Annotated[list[str] | None, typer.Option("--submodel", help="Which; default: S and XL.")] = None,
    threads: Threads = 1,
    repeats: Annotated[int, typer.Option(min=2, help="Measurements of each.")] = 5,
) -> None:
    """Repeatability: how far repeated measurements of one submodel are apart, corrected and as the clock gave them."""
    target = Target(name="here", local=True, threads=threads)
    universal = load_checkpoint(model).model
    subjects = UniversalSubjects(prepare(universal, target))
    reference = Reference.of(subjects.reference, target)
    rows = []
    for name in track(submodel or ["S", "XL"], "measuring", transient=True):
        subject = subjects.subject(universal.config.submodel(name))
        rows += [
            {
                "submodel": name,
                "regime": regime,
                "median_ms": spread.median_ms,
                "range_percent": 100 * spread.relative_range,
                "uncorrected_range_percent": 100 * spread.uncorrected_range,
                "interval_percent": 100 * spread.interval_width,
                "slowdown": spread.slowdown,
            }
            for regime, spread in measure_repeatedly(subject, reference, repeats).items()
        ]
    print_rows(rows, as_json=False, title=f"{repeats} measurements of each, {threads} of {os.cpu_count()} threads")
    print(json.dumps(rows))


if __name__ == "__main__":
    run_command(repeatability)
