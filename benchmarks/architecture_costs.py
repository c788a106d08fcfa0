"""How well a cost model fitted to a few measured layer configurations predicts whole architectures it has not seen.

Measures a design's uniform stacks, fits, then measures random candidates of the space and compares. The candidates'
own measurements are not exact either: their noise counts as the model's error. So whatever was timed at an unquiet
moment is timed again, stacks and candidates alike, by what a measurement says of itself and before any is compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common.command import StageProgress, Threads, run_benchmark
from benchmarks.common.machine import Machine
from lts_ray.architecture import Architecture
from lts_ray.cli.options import OutputFile, Seed
from lts_ray.console import print_rows, progress_bars
from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.measurement.latency import Latency
from lts_ray.measurement.measurement import Measurement, measure
from lts_ray.measurement.reference import Reference
from lts_ray.measurement.subjects.subject import BackboneSource
from lts_ray.proxies.architecture_cost import (
    COST_NAMES,
    ArchitectureCost,
    CostName,
    RelativeError,
    check_has_steps,
    fit_costs,
)
from lts_ray.proxies.layer_design import design
from lts_ray.record import record_json
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.spaces.named_spaces import backbone_space
from lts_ray.target import Target
from lts_ray.timing import Clock

SCHEMA = 1
ATTEMPTS = 3
UNQUIET = 0.1
"""An interval of the median wider than this share of it: measure again, `ATTEMPTS` times in all."""
CostOf = Callable[[Architecture], Cost]


@dataclass(frozen=True)
class UnseenCandidate:
    """One that the model had not seen."""

    architecture: Architecture
    predicted: Cost
    relative_deviation: dict[CostName, float]
    """What the model expected to be off by."""
    measured: Cost


@dataclass(frozen=True, kw_only=True)
class CostComparison:
    """A fitted model beside the candidates it predicted."""

    model: ArchitectureCost
    rows: tuple[UnseenCandidate, ...]
    seconds: dict[str, float]
    """Of measuring the layers, of the fit, and of measuring the candidates."""

    def error(self, name: CostName) -> RelativeError:
        """Over the unseen candidates."""
        errors = [abs(getattr(row.predicted, name) / getattr(row.measured, name) - 1) for row in self.rows]
        return RelativeError(mean=fmean(errors), median=median(errors), largest=max(errors))

    def summary(self) -> dict[str, Any]:
        return {
            "space": self.model.space.name,
            "layers": len(self.model.samples),
            "candidates": len(self.rows),
            "seconds": self.seconds,
            "relative_error": {name: asdict(self.error(name)) for name in COST_NAMES},
            "left_out_error": {name: asdict(self.model.relative_error[name]) for name in COST_NAMES},
        }


def compare_costs(
    space_name: str, *, target: Target, layers: int, candidates: int, seed: int, progress: StageProgress
) -> CostComparison:
    """Measure on this machine, as `target` says; its selector is not looked at. About two seconds a measurement.

    Nothing else should run on the machine meanwhile. Raises LtsRayError for an unknown space, or one of encoders.
    """
    space = backbone_space(space_name)
    check_has_steps(space)
    source = BackboneSource(backbone=space.backbone, vocab_size=space.vocab_size, context_length=target.sequence_length)
    subjects = source.open(target)
    reference = Reference.of(subjects.reference, target)

    def cost_of(architecture: Architecture) -> Cost:
        subject = subjects.subject(architecture)
        return quietest(lambda: measure(subject, reference, seconds=2.0)).cost

    rng = np.random.default_rng(seed)
    return compare(space, cost_of=cost_of, layers=layers, candidates=candidates, rng=rng, progress=progress)


def quietest(measured: Callable[[], Measurement]) -> Measurement:
    """The narrowest interval of each regime over a few attempts, one where that is narrow enough."""
    best = measured()
    for _ in range(ATTEMPTS - 1):
        if max(_width(best.prefill), _width(best.decode)) <= UNQUIET:
            break
        again = measured()
        best = replace(
            best,
            prefill=min(best.prefill, again.prefill, key=_width),
            decode=min(best.decode, again.decode, key=_width),
        )
    return best


def _width(latency: Latency | None) -> float:
    return 0.0 if latency is None else (latency.interval_ms[1] - latency.interval_ms[0]) / latency.median_ms


def compare(
    space: BackboneSpace,
    *,
    cost_of: CostOf,
    layers: int,
    candidates: int,
    rng: np.random.Generator,
    progress: StageProgress = lambda stage, done, total: None,
    clock: Clock = time.perf_counter,
) -> CostComparison:
    """cost_of: measures one architecture. Predictions are made before any candidate is measured."""
    if candidates < 1:
        raise LtsRayError(f"a cost model is compared on at least one candidate; got {candidates}")
    stacks = design(space, count=layers, rng=rng)
    unseen: list[Architecture] = []
    while len(unseen) < candidates:
        candidate = space.sample(rng)
        if candidate not in stacks:
            unseen.append(candidate)
    started = clock()
    samples = list(zip(stacks, _costs("layers", stacks, cost_of, progress), strict=True))
    measured = clock()
    model = fit_costs(samples, space)
    fitted = clock()
    predictions = model.predict(unseen)
    deviations = [getattr(predictions, name).relative_deviation.tolist() for name in COST_NAMES]
    begun = clock()
    costs = _costs("candidates", unseen, cost_of, progress)
    seconds = {"layers": measured - started, "fit": fitted - measured, "candidates": clock() - begun}
    spreads = [dict(zip(COST_NAMES, spread, strict=True)) for spread in zip(*deviations, strict=True)]
    rows = [UnseenCandidate(*row) for row in zip(unseen, predictions.costs(), spreads, costs, strict=True)]
    return CostComparison(model=model, rows=tuple(rows), seconds=seconds)


def _costs(stage: str, architectures: Sequence[Architecture], cost_of: CostOf, progress: StageProgress) -> list[Cost]:
    costs = []
    for done, architecture in enumerate(architectures, start=1):
        costs.append(cost_of(architecture))
        progress(stage, done, len(architectures))
    return costs


def architecture_costs(
    space: Annotated[str, typer.Option("--space", "-s", help="gpt2, transformer-xl or opt")] = "gpt2",
    threads: Threads = 1,
    layers: Annotated[int, typer.Option(min=12, help="Layer configurations to measure and fit to.")] = 60,
    candidates: Annotated[int, typer.Option(min=1, help="Unseen candidates to predict and measure.")] = 50,
    seed: Seed = 0,
    output: OutputFile = None,
) -> None:
    """Cost model: how far its predictions are from what unseen architectures take."""
    target = Target(name="here", local=True, threads=threads)
    with progress_bars() as progress:
        comparison = compare_costs(
            space, target=target, layers=layers, candidates=candidates, seed=seed, progress=progress
        )
    rows = [{"cost": name, **asdict(comparison.error(name))} for name in COST_NAMES]
    title = f"{space}: relative error of {candidates} unseen candidates, from {layers} layer configurations"
    print_rows(rows, as_json=False, title=title)
    about = {"schema": SCHEMA, "target": record_json(target), "seed": seed, "machine": asdict(Machine.here())}
    summary = about | comparison.summary()
    if output is not None:
        samples = [
            {"architecture": architecture.to_json(), **asdict(cost)} for architecture, cost in comparison.model.samples
        ]
        write_json(output, summary | {"rows": [asdict(row) for row in comparison.rows], "samples": samples})
    print(json.dumps(summary))


if __name__ == "__main__":
    run_benchmark(architecture_costs)
