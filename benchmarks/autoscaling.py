"""Autoscalers side by side on the same simulated loads: budgets kept, quality, replica-hours times cost, decisions.

Replicas are simulated with this machine's step costs, as those of a model so much heavier that one bears BEARS requests
a second: so an hour of a hundred replicas is some 90,000 requests. Peers are swept over their one setting, to compare
at equal attainment. With --real up to three replicas are processes here, which serve a day of some minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.load import load_options as options
from benchmarks.load.fleet_folder import FleetKind
from benchmarks.load.local_model import LoadCapacity, LocalModel
from benchmarks.load.replica_processes import ReplicaOrder
from benchmarks.load.scaled_processes import LEAST, hastened_autoscaler, measured_costs, play_scaled
from benchmarks.load.scaling_rows import WANTED, rows_of
from lts_ray.cli.options import Model, Output, Seed
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line, read_json, read_json_lines, write_json
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.record import read_record, record, record_json
from lts_ray.runtime.step_costs import StepCosts
from serve.autoscaling.autoscaler import Autoscaler
from serve.autoscaling.named_autoscalers import autoscaler_named
from serve.autoscaling.sustained_rate import RecentRequest, sustained_rate
from serve.policies.deadline import DeadlinePolicy
from serve.policies.deviation import NO_DEVIATION
from serve.routing.budget_router import BudgetRouter
from serve.simulate.attainment_score import score
from serve.simulate.scaling_oracle import ScalingOracle
from serve.simulate.simulate_fleet import simulate_fleet
from serve.simulate.simulated_kind import SimulatedKind
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses
from serve.traffic.load import load_of, make_load
from serve.traffic.recorded_trace import RecordedTrace, read_recorded
from serve.traffic.traces import trace_named

SCHEMA, BEARS = 1, 0.25
KINDS = {"large": (1.0, 2.2), "small": (0.5, 1.0)}
"""Of node: speed, and cost per hour of a replica."""
SWEPT = {"ray": "target_ongoing_requests", "ray-fast": "target_ongoing_requests", "slo-ratio": "share"}
"""The setting that `name:value` is of; of a fixed fleet the share of --replicas, of the oracle its headroom."""
SWEEPS = (
    *("attainment", "ray:1", "ray", *(f"ray:{target}" for target in (4, 6, 8))),
    *("ray-fast:4", "slo-ratio:0.6", "fixed:1", "fixed:1.4", "fixed:1.8", "oracle:1.2"),
)
SIMULATED = {"traces": "gamma-4,day", "autoscalers": ",".join(SWEEPS), "replicas": 8, "seconds": 1200.0}
"""What options are by themselves."""
REAL = {"traces": "day", "autoscalers": "attainment,ray-fast,fixed:1,fixed:3", "replicas": 2, "seconds": 100.0}
"""The same with real replicas; a fixed fleet's setting is how many they are."""
SMALL = FleetKind(name="small", speed=0.3)
"""Of what kind these are."""
DAY = 2
"""A day is squeezed into so many times the other loads' seconds."""
NOISE, SPREAD, NOISE_STREAM = 0.1, 15.0, 16
"""Of simulated steps' times; seconds around a recorded request in which its copies come; the noise's random stream."""


@record(what="settings", strict=False)
class ScalingSettings:
    replicas: Annotated[int, typer.Option(min=1)] = 8
    """What the mean rate needs, of the large kind."""
    seconds: float = 1200.0
    """Of a load; a day is squeezed into twice that."""
    start_s: float = 60.0
    """What a replica takes to come up."""
    quality: float = 1.01
    """The mean loss that autoscaling counts as borne, in multiples of the universal model's."""
    classes: BudgetClasses = field(default_factory=BudgetClasses)
    """How tight budgets are, for the large kind."""


@dataclass(frozen=True, kw_only=True)
class ScalingBench:
    settings: ScalingSettings
    model: LocalModel
    costs: StepCosts
    """Of the model as it is."""
    recorded: RecordedTrace | None = None
    order: ReplicaOrder | None = None
    """Of real replicas."""

    def kinds(self) -> tuple[SimulatedKind, ...]:
        settings, losses = self.settings, self.losses
        common: dict[str, Any] = {"min_replicas": 1, "max_replicas": 4 * settings.replicas, "start_s": settings.start_s}
        worst = settings.quality * losses[self.model.menu.universal.name]

        def kind(name: str, speed: float, cost: float) -> SimulatedKind:
            node = replace(self.model.replica(self.heavy(1 / speed)), noise=NOISE, attainment=WANTED, worst_loss=worst)
            first = settings.replicas if speed == 1 else 1
            return SimulatedKind(name=name, cost_per_hour=cost, node=node, replicas=first, **common)

        return tuple(kind(name, *each) for name, each in KINDS.items())

    @property
    def losses(self) -> dict[str, float]:
        return {name: option.loss or 0.0 for name, option in self.model.menu.named.items()}

    def heavy(self, slower: float) -> StepCosts:
        """Of the model that is so much heavier that a replica of speed 1 bears BEARS requests a second."""
        sample = self._made("poisson", 10.0, 30.0, 0, self.costs)
        return _times(self.costs, slower * self._bears(self.costs, sample) / BEARS)

    def _bears(self, costs: StepCosts, sample: Sequence[Arrival]) -> float:
        return sustained_rate(
            [RecentRequest(each.prompt_tokens, each.output_tokens, each.budget) for each in sample],
            menu=self.model.menu,
            costs=costs,
            deviation=NO_DEVIATION,
            capacity=self.model.capacity,
            worst_loss=self.settings.quality * self.losses[self.model.menu.universal.name],
            attainment=WANTED,
        )

    def _made(self, trace: str, rate: float, seconds: float, seed: int, costs: StepCosts) -> tuple[Arrival, ...]:
        return make_load(
            trace_named(trace),
            rate=rate,
            seconds=seconds,
            seed=seed,
            need=self.model.need(costs),
            context_length=self.model.capacity.context_length,
            classes=self.settings.classes,
        )

    def load(self, trace: str, seed: int) -> tuple[Arrival, ...]:
        """A recorded trace is as long as it was: each request comes some times, near its time, to be as many."""
        if self.order is not None:
            rate = self.settings.replicas * self._bears(self.costs, self._made("poisson", 10.0, 30.0, 0, self.costs))
            return self._made(trace, rate, self.settings.seconds, seed, self.costs)
        rate, seconds, heavy = BEARS * self.settings.replicas, self.settings.seconds, self.heavy(1.0)
        if self.recorded is None or trace != self.recorded.name:
            return self._made(trace, rate, seconds * DAY if trace.endswith("day") else seconds, seed, heavy)
        part_s = min(seconds, float(self.recorded.times[-1]) / 1e3)
        rng, times = np.random.default_rng([seed, NOISE_STREAM]), self.recorded.times
        lengths = self.recorded.scaled(self.model.capacity.context_length)[times <= 1e3 * part_s]
        times = times[times <= 1e3 * part_s]
        copies = rng.integers(len(times), size=rng.poisson(rate * part_s))
        near = times[copies] + 1e3 * rng.uniform(-SPREAD, SPREAD, size=len(copies))
        order = np.argsort(np.clip(near, 0.0, None), kind="stable")
        return load_of(
            np.clip(near, 0.0, None)[order],
            lengths[copies][order],
            seed=seed,
            need=self.model.need(heavy),
            classes=self.settings.classes,
        )

    def autoscaler(self, word: str, arrivals: Sequence[Arrival]) -> Autoscaler:
        """Of `name` or `name:value`. Raises LtsRayError."""
        name, _, value = word.partition(":")
        number = float(value or 1)
        swept = {SWEPT[name]: number} if value and name in SWEPT else {}
        if self.order is not None:
            return hastened_autoscaler(name, **swept)
        if name == "oracle":
            bears = {kind.name: self._bears(kind.node.costs, arrivals[:300]) for kind in self.kinds()}
            return ScalingOracle(arrivals, bears=bears, headroom=number)
        if name == "fixed":
            return autoscaler_named(name, replicas={"large": ceil(number * self.settings.replicas), "small": 1})
        return autoscaler_named(name, **swept)

    def play(self, trace: str, word: str, seed: int, progress: Any = None) -> dict[str, Any]:
        arrivals, menu = self.load(trace, seed), self.model.menu
        autoscaler = self.autoscaler(word, arrivals)
        if self.order is not None:
            first = int(word.removeprefix("fixed:")) if word.startswith("fixed:") else LEAST
            worst = self.settings.quality * self.losses[menu.universal.name]
            order = replace(self.order, costs=self.costs, worst_loss=worst)
            run = play_scaled(arrivals, order=order, model=self.model, autoscaler=autoscaler, first=first, seed=seed)
        else:
            run = simulate_fleet(
                arrivals,
                kinds=self.kinds(),
                router=BudgetRouter(),
                policy=DeadlinePolicy,
                rng=np.random.default_rng([seed, NOISE_STREAM]),
                autoscaler=autoscaler,
                progress=progress,
            )
        universal, seconds = menu.universal.name, arrivals[-1].at_ms / 1e3
        scored = score(
            run.outcomes, losses=self.losses, narrowest=menu.narrowest.name, universal=universal, seconds=seconds
        )
        return {
            "trace": trace,
            "autoscaler": word,
            "seed": seed,
            "cost": run.cost,
            "replica_hours": dict(run.replica_hours or {}),
            "decisions": [asdict(decision) for decision in run.decisions],
            "score": asdict(scored),
        }


def _times(costs: StepCosts, factor: float) -> StepCosts:
    """Of a heavier model: a slower node would be taken for a fault from some factor on."""
    scaled: dict[str, Any] = {
        name: tuple(factor * ms for ms in getattr(costs, name)) for name in ("base", "neuron", "head")
    }
    prompt = None if costs.prompt_attended is None else factor * costs.prompt_attended
    return replace(costs, **scaled, attended=factor * costs.attended, prompt_attended=prompt)


def autoscaling(
    model: Model = DEFAULT_MODEL,
    output: Output = Path("runs/autoscaling"),
    traces: Annotated[str | None, typer.Option(help="When requests come; default: gamma-4,day; real: day.")] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="CSV of a service's requests, as Azure publishes them: one trace more.")
    ] = None,
    autoscalers: Annotated[str | None, typer.Option(help="Which, each with its setting after a colon.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="The mean rate needs them; default: 8; real: 2.")] = None,
    seconds: Annotated[float | None, typer.Option(min=60, help="Of a load; default: 1200; real: 100.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Loads of each trace.")] = 1,
    calibration: options.Calibration = options.CALIBRATION_S,
    costs: options.Costs = None,
    real: Annotated[bool, typer.Option("--real", help="One to three replicas here, each 0.3 of a core.")] = False,
    seed: Seed = 100,
) -> None:
    """Autoscalers over simulated kinds of node: budgets kept, quality, cost. Run again, it goes on."""
    if real and (recorded or costs):
        raise LtsRayError("--real measures its own steps, and plays made loads: leave out --costs and --recorded")
    given = {"traces": traces, "autoscalers": autoscalers, "replicas": replicas, "seconds": seconds}
    chosen: dict[str, Any] = (REAL if real else SIMULATED) | {k: v for k, v in given.items() if v is not None}
    output = output / "real" if real else output
    local = LocalModel(model, capacity=LoadCapacity(context_length=options.CONTEXT), threads=1)
    settings = read_record(ScalingSettings, {name: chosen[name] for name in ("replicas", "seconds")}, what="settings")
    common: dict[str, Any] = {"model": model, "frontier": None, "target": None, "capacity": local.capacity}
    order = ReplicaOrder(id=SMALL.ids[0], kind=SMALL, calibration_s=calibration, **common) if real else None
    setup, cells = output / "setup.json", output / "cells.jsonl"
    if setup.exists():
        kept = read_json(setup, what="the set-up")
        base = read_record(StepCosts, kept["costs"], what=str(setup))
        if (kept["model"], kept["settings"]) != (local.fingerprint, record_json(settings)):
            raise LtsRayError(f"{output} holds a bench of another model or other settings; use another --output")
    else:
        base = options.read_costs(costs) or (measured_costs(order) if order else local.calibrate(calibration))
        about = {"model": local.fingerprint, "settings": record_json(settings), "costs": asdict(base)}
        write_json(setup, {"schema": SCHEMA, **about, "machine": asdict(Machine.here())})
    trace = None if recorded is None else read_recorded(recorded)
    bench = ScalingBench(settings=settings, model=local, costs=base, recorded=trace, order=order)
    words = names_of(chosen["autoscalers"])
    for word in words:
        bench.autoscaler(word, bench._made("poisson", 1.0, 10.0, 0, base))  # an unknown one is told at once
    asked = [
        (name, word, number)
        for number in range(seed, seed + rounds)
        for name in [*([] if trace is None else [trace.name]), *names_of(chosen["traces"])]
        for word in words
    ]
    done = {_key(cell): cell for cell in read_json_lines(cells, what="the bench's cells")}
    with shown_progress("loads") as progress:
        for place, cell in enumerate(asked):
            progress(place, len(asked))
            if cell not in done:
                done[cell] = bench.play(*cell)
                append_json_line(cells, done[cell])
    rows = rows_of([done[cell] for cell in asked], bench.losses[local.menu.universal.name])
    print_rows(
        rows, as_json=False, title=f"{settings.replicas} {SMALL.name if real else 'large'} replicas bear the mean rate"
    )
    write_json(output / "autoscaling.json", {"schema": SCHEMA, "settings": record_json(settings), "rows": rows})


def _key(cell: Mapping[str, Any]) -> tuple[str, str, int]:
    return cell["trace"], cell["autoscaler"], cell["seed"]


if __name__ == "__main__":
    run_benchmark(autoscaling)
