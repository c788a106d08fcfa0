"""How well a measurement repeats: one candidate measured several times, and how far the results lie apart."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from statistics import median
from typing import Annotated, Any

import typer
from rich.progress import track

from benchmarks.common.command import Threads, run_benchmark
from lts_ray.cli.options import Model
from lts_ray.console import print_rows
from lts_ray.measurement.latency import Latency
from lts_ray.measurement.reference import Reference
from lts_ray.measurement.steps import Regime
from lts_ray.measurement.subjects.subject import Subject
from lts_ray.measurement.subjects.submodel_subject import UniversalSubjects
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.target import Target


def measure_repeatedly(
    subject: Subject, reference: Reference, repeats: int, *, seconds: float = 2.0
) -> dict[Regime, list[Latency]]:
    """Measure `subject` `repeats` times in turn against one reference, as a search would."""
    taken: dict[Regime, list[Latency]] = {"prefill": [], "decode": []}
    for _ in range(repeats):
        for regime, latencies in taken.items():
            latencies.append(reference.latency(regime, subject, seconds=seconds / 2))
    return taken


def spread_of(latencies: Sequence[Latency]) -> dict[str, float]:
    """How far repeated measurements of one regime are apart: the range of their medians over the middle one.

    uncorrected_range: what it would be if the node's slowdowns were not corrected for. interval: what a single
    measurement said of itself, the middle one of all. slowdown: the worst that stayed in any of them.
    """
    return {
        "median_ms": median(latency.median_ms for latency in latencies),
        "range_percent": 100 * _range([latency.median_ms for latency in latencies]),
        "uncorrected_range_percent": 100 * _range([median(latency.times_ms) for latency in latencies]),
        "interval_percent": 100
        * median((latency.interval_ms[1] - latency.interval_ms[0]) / latency.median_ms for latency in latencies),
        "slowdown": max(latency.slowdown for latency in latencies),
    }


def _range(values: Sequence[float]) -> float:
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
    subjects = UniversalSubjects.of(universal, target)
    reference = Reference.of(subjects.reference, target)
    rows: list[dict[str, Any]] = []
    for name in track(submodel or ["S", "XL"], "measuring", transient=True):
        subject = subjects.subject(universal.config.submodel(name))
        for regime, latencies in measure_repeatedly(subject, reference, repeats).items():
            rows.append({"submodel": name, "regime": regime, **spread_of(latencies)})
    print_rows(rows, as_json=False, title=f"{repeats} measurements of each, {threads} of {os.cpu_count()} threads")
    print(json.dumps(rows))


if __name__ == "__main__":
    run_benchmark(repeatability)
