"""How well a cost model fitted to a few measured layer configurations predicts whole architectures it has not seen.

Measures a design's uniform stacks, fits, then measures random candidates of the space and compares. The candidates'
own measurements are not exact either: their noise counts as the model's error. So whatever was timed at an unquiet
moment is timed again, stacks and candidates alike, by what a measurement says of itself and before any is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.common.machine import Machine
from lts_ray.architecture import Architecture
from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
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
    fit,
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
Progress = Callable[[str, int, int], None]
"""Told of the stage ("layers" or "candidates"), how many of its architectures are measured, and of how many."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate that the model had not seen. deviations: relative, what the model expected to be off by."""

    architecture: Architecture
    predicted: Cost
    deviations: tuple[float, float, float]
    measured: Cost

    def error(self, name: CostName) -> float:
        """Relative and signed: positive where too much was predicted."""
        return float(getattr(self.predicted, name) / getattr(self.measured, name) - 1)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A fitted model beside the candidates it predicted."""

    model: ArchitectureCost
    rows: tuple[Row, ...]
    layers_seconds: float
    fit_seconds: float
    candidates_seconds: float

    def error(self, name: CostName) -> RelativeError:
        """Over the unseen candidates."""
        errors = [abs(row.error(name)) for row in self.rows]
        return RelativeError(mean=fmean(errors), median=median(errors), largest=max(errors))


@dataclass(frozen=True, kw_only=True)
class Result:
    target: Target
    seed: int
    machine: Machine
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        found = self.comparison
        return {
            "schema": SCHEMA,
            "space": found.model.space.name,
            "target": record_json(self.target),
            "seed": self.seed,
            "machine": asdict(self.machine),
            "layers": len(found.model.samples),
            "candidates": len(found.rows),
            "seconds": {
                "layers": round(found.layers_seconds, 1),
                "fit": round(found.fit_seconds, 2),
                "candidates": round(found.candidates_seconds, 1),
            },
            "relative_error": {name: asdict(found.error(name)) for name in COST_NAMES},
            "left_out_error": {name: asdict(found.model.relative_error[name]) for name in COST_NAMES},
            "rows": [
                {
                    "architecture": row.architecture.to_json(),
                    "predicted": asdict(row.predicted),
                    "relative_deviation": dict(zip(COST_NAMES, row.deviations, strict=True)),
                    "measured": asdict(row.measured),
                }
                for row in found.rows
            ],
            "model": found.model.to_json(),
        }


def run(
    space_name: str,
    *,
    target: Target,
    layers: int = 60,
    candidates: int = 50,
    seed: int = 0,
    seconds: float = 2.0,
    progress: Progress = lambda stage, done, total: None,
) -> Result:
    """Measure on this machine, as `target` says; its selector is not looked at. seconds: about, for one measurement.

    Nothing else should run on the machine meanwhile. Raises LtsRayError for an unknown space, or one of encoders.
    """
    space = backbone_space(space_name)
    check_has_steps(space)
    source = BackboneSource(backbone=space.backbone, vocab_size=space.vocab_size, context_length=target.sequence_length)
    subjects = source.open(target)
    reference = Reference.of(subjects.reference, target)

    def cost_of(architecture: Architecture) -> Cost:
        subject = subjects.subject(architecture)
        return quietest(lambda: measure(subject, reference, seconds=seconds)).cost

    comparison = compare(
        space,
        cost_of=cost_of,
        layers=layers,
        candidates=candidates,
        rng=np.random.default_rng(seed),
        progress=progress,
    )
    return Result(target=target, seed=seed, machine=Machine.here(), comparison=comparison)


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
    if latency is None:
        return 0.0
    low, high = latency.interval_ms
    return (high - low) / latency.median_ms


def compare(
    space: BackboneSpace,
    *,
    cost_of: CostOf,
    layers: int,
    candidates: int,
    rng: np.random.Generator,
    progress: Progress = lambda stage, done, total: None,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """cost_of: measures one architecture. Predictions are made before any candidate is measured."""
    if candidates < 1:
        raise LtsRayError(f"a cost model is compared on at least one candidate; got {candidates}")
    stacks = design(space, count=layers, rng=rng)
    unseen = _unseen(space, candidates, set(stacks), rng)
    started = clock()
    samples = list(zip(stacks, _costs("layers", stacks, cost_of, progress), strict=True))
    measured = clock()
    model = fit(samples, space)
    fitted = clock()
    predictions = model.predict(unseen)
    deviations = [getattr(predictions, name).relative_deviation.tolist() for name in COST_NAMES]
    begun = clock()
    costs = _costs("candidates", unseen, cost_of, progress)
    return Comparison(
        model=model,
        rows=tuple(
            Row(architecture=each, predicted=predicted, deviations=spread, measured=cost)
            for each, predicted, spread, cost in zip(
                unseen, predictions.costs(), zip(*deviations, strict=True), costs, strict=True
            )
        ),
        layers_seconds=measured - started,
        fit_seconds=fitted - measured,
        candidates_seconds=clock() - begun,
    )


def _unseen(space: BackboneSpace, count: int, seen: set[Architecture], rng: np.random.Generator) -> list[Architecture]:
    """Random candidates, none of which was measured for the fit."""
    drawn: list[Architecture] = []
    while len(drawn) < count:
        candidate = space.sample(rng)
        if candidate not in seen:
            drawn.append(candidate)
    return drawn


def _costs(stage: str, architectures: Sequence[Architecture], cost_of: CostOf, progress: Progress) -> list[Cost]:
    costs = []
    for done, architecture in enumerate(architectures, start=1):
        costs.append(cost_of(architecture))
        progress(stage, done, len(architectures))
    return costs
