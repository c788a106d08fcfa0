"""Routers over replicas of several kinds of node: budgets kept, and at which quality, side by side at equal loads.

Replicas are engines in processes of their own, each with a share of a core, behind the endpoint's own fleet in this
process; or they are simulated, and there may be many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from logging import ERROR, getLogger
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import thread_time
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.common.turns import Progress
from benchmarks.load import load_options as options
from benchmarks.load.fleet_folder import FleetFolder, FleetSettings, FleetSetup, kinds_given
from benchmarks.load.local_model import LoadCapacity, LocalModel
from benchmarks.load.migration_pauses import migration_pauses
from benchmarks.load.played_fleets import ORACLE, RealFleet, SimulatedFleet
from benchmarks.load.policies_folder import Cell, CellResult
from benchmarks.load.policy_rows import PolicyRow, mean_text, rows_of
from benchmarks.load.replica_processes import ReplicaOrder, replica_processes
from lts_ray.cli.options import Model, Output, Seed
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.record import read_record, record_json
from lts_ray.runtime.step_costs import StepCosts
from serve.routing.named_routers import ROUTERS
from serve.simulate.attainment_score import score
from serve.simulate.request_outcome import Outcome
from serve.simulate.saturation import REQUESTS
from serve.traffic.arrival import Arrival
from serve.traffic.load import make_load
from serve.traffic.recorded_trace import RecordedTrace, read_recorded
from serve.traffic.traces import trace_named

Play = Callable[[Cell, Sequence[Arrival]], Awaitable[Sequence[Outcome]]]


@dataclass(frozen=True, kw_only=True)
class FleetBench:
    settings: FleetSettings
    model: LocalModel
    folder: FleetFolder
    recorded: RecordedTrace | None = None

    def __post_init__(self) -> None:
        known = (*ROUTERS, ORACLE) if self.settings.mode == "simulated" else tuple(ROUTERS)
        if unknown := [name for name in self.settings.routers if name not in known]:
            raise LtsRayError(f"unknown router {unknown[0]!r}; known: {', '.join(known)}")
        for name in self.settings.traces:
            if self.recorded is None or name != self.recorded.name:
                trace_named(name)

    @property
    def setup(self) -> FleetSetup | None:
        """None where nothing is measured yet."""
        return self.folder.read_setup(self.settings, self.model.fingerprint, self.model.capacity)

    def set_up(self, costs: Mapping[str, StepCosts]) -> FleetSetup:
        """costs: by kind. What the folder has already stays."""
        old, menu = self.setup, self.model.menu
        costs = costs if old is None else old.costs
        losses = {name: option.loss for name, option in menu.named.items() if option.loss is not None}
        if unknown := menu.named.keys() - losses.keys():
            raise LtsRayError(f"nothing says the loss of {', '.join(sorted(unknown))}, which the bench compares")
        setup = FleetSetup(
            settings=self.settings,
            model=self.model.fingerprint,
            capacity=self.model.capacity,
            costs=costs,
            rates={trace: self._rate(trace, costs) for trace in self.settings.traces},
            losses=losses,
            machine=Machine.here() if old is None else old.machine,
        )
        self.folder.write_setup(setup)
        return setup

    def _rate(self, trace: str, costs: Mapping[str, StepCosts]) -> float:
        lengths = None
        if self.recorded is not None and trace == self.recorded.name:
            lengths = self.recorded.sample(REQUESTS, context_length=self.model.capacity.context_length)
        each = {name: self.model.saturation(of_kind, lengths=lengths) for name, of_kind in costs.items()}
        return sum(kind.replicas * each[kind.name] for kind in self.settings.kinds)

    def load_of(self, cell: Cell, setup: FleetSetup) -> tuple[Arrival, ...]:
        """The same for all routers. Budgets are multiples of what the fastest kind needs."""
        common: dict[str, Any] = {
            "rate": cell.load * setup.rates[cell.trace],
            "seconds": self.settings.seconds,
            "seed": cell.seed,
            "need": self.model.need(setup.fastest),
            "context_length": self.model.capacity.context_length,
            "classes": self.settings.classes,
        }
        if self.recorded is not None and cell.trace == self.recorded.name:
            return self.recorded.load(**common)
        return make_load(trace_named(cell.trace), **common)

    async def run(self, setup: FleetSetup, play: Play, progress: Progress) -> None:
        """The cells that the folder does not hold yet; each is kept as soon as it is over."""
        done, cells = self.folder.read_cells(), list(self.settings.cells())
        missing = [cell for cell in cells if cell not in done]
        menu = self.model.menu
        for number, cell in enumerate(missing, start=len(cells) - len(missing)):
            progress(number, len(cells))
            scored = score(
                await play(cell, self.load_of(cell, setup)),
                losses=setup.losses,
                narrowest=menu.narrowest.name,
                universal=menu.universal.name,
                seconds=self.settings.seconds,
            )
            self.folder.add(CellResult(cell=cell, score=scored))

    def rows(self, *, by_trace: bool = False) -> list[PolicyRow]:
        """Of the cells that were asked for, as far as the folder has them."""
        done, asked = self.folder.read_cells(), set(self.settings.cells())
        order = {name: place for place, name in enumerate(self.settings.routers)}
        cells = sorted((done[cell] for cell in asked & done.keys()), key=lambda each: order[each.cell.policy])
        return rows_of(cells, by_trace=by_trace)


def columns(row: PolicyRow) -> dict[str, str]:
    return {
        "load": f"{row.load:g}",
        "router": row.policy,
        "kept %": "–" if row.attainment is None else row.attainment.text(scale=100),
        **{f"{name} %": mean_text(row.by_class.get(name), 1, scale=100) for name in ("tight", "medium", "loose")},
        "loss": row.loss.text(decimals=4),
        "refused %": mean_text(row.rejected, 1, scale=100),
        "TTFT p50": mean_text(row.p50["ttft"], 0),
        "TTFT p99": mean_text(row.p99["ttft"], 0),
    }


def fleet(
    model: Model = DEFAULT_MODEL,
    output: Output = Path("runs/fleet"),
    kinds: Annotated[str, typer.Option(help="Of node: name:replicas:speed, speed being a share of a core.")] = (
        "fast:1:0.8,slow:1:0.4"
    ),
    loads: Annotated[str, typer.Option(help="In multiples of the fleet's saturation.")] = "0.5,0.75,1,1.25,1.5",
    traces: Annotated[str, typer.Option(help="When requests come: poisson, gamma-4, ramp, ….")] = "gamma-4,ramp",
    recorded: Annotated[
        Path | None, typer.Option(help="CSV of a service's requests, as Azure publishes them: one trace more.")
    ] = None,
    routers: Annotated[
        str, typer.Option(help="Which to compare; oracle, too, where replicas are simulated.")
    ] = ",".join(ROUTERS),
    seconds: Annotated[float, typer.Option(min=0.5, help="How long each load lasts.")] = 20.0,
    rounds: Annotated[int, typer.Option(min=1, help="In each, every router gets every load once.")] = 3,
    simulated: Annotated[bool, typer.Option("--simulate", help="Simulate the replicas; there may be many.")] = False,
    replays: Annotated[int, typer.Option(min=1, help="Of a load, by which the oracle finds its way.")] = 60,
    decisions: Annotated[bool, typer.Option(help="Instead: what a decision takes, at load 1, simulated.")] = False,
    speed: Annotated[bool, typer.Option(help="Instead: what simulating the first load takes of a core.")] = False,
    kills: Annotated[int, typer.Option(min=0, help="Instead: kill replicas under streams so often.")] = 0,
    frontier: options.Frontier = None,
    target: options.TargetName = None,
    calibration: options.Calibration = options.CALIBRATION_S,
    costs: options.Costs = None,
    seed: Seed = 0,
) -> None:
    """Routers over kinds of node: budgets kept by class, quality, time to first tokens. Run again, it goes on."""
    local = LocalModel(
        model, capacity=LoadCapacity(context_length=options.CONTEXT), threads=1, frontier=frontier, target=target
    )
    trace = None if recorded is None else read_recorded(recorded)
    given = {
        "mode": "simulated" if simulated or decisions or speed else "engine",
        "kinds": kinds_given(kinds),
        "traces": [*names_of(traces), *([] if trace is None else [trace.name])],
        "loads": names_of(loads),
        "routers": names_of(routers),
        "rounds": rounds,
        "seed": seed,
        "seconds": seconds,
        "replays": replays,
    }
    settings = read_record(FleetSettings, given, what="settings")
    bench = FleetBench(settings=settings, model=local, folder=FleetFolder(output), recorded=trace)
    known = None if (old := bench.setup) is None else old.costs
    if settings.mode == "simulated":
        if known is None:
            base = options.read_costs(costs) or local.calibrate(calibration)
            known = {kind.name: base.scaled(1 / kind.speed) for kind in settings.kinds}
        setup = bench.set_up(known)
        played = SimulatedFleet(setup=setup, model=local)
        if decisions:
            print_rows(decision_rows(bench, played), as_json=False, title="What a decision takes, in milliseconds")
            return
        if speed:
            print_rows([speed_row(bench, played)], as_json=False, title="What simulating a load takes of one core")
            return
        with shown_progress("loads") as progress:
            asyncio.run(bench.run(setup, played.play, progress))
        show(bench, setup)
        return
    common: dict[str, Any] = {"model": model, "frontier": frontier, "target": target, "capacity": local.capacity}
    orders = [
        ReplicaOrder(id=id, kind=kind, calibration_s=calibration, **common)
        for kind in settings.kinds
        for id in kind.ids
    ]
    with replica_processes(orders) as processes, shown_progress("kills" if kills else "loads") as progress:
        if kills:
            getLogger("serve").setLevel(ERROR)  # each stream that moves is a warning
            pauses_ms = asyncio.run(migration_pauses(processes, local, kills=kills, seed=seed, progress=progress))
        else:
            setup = bench.set_up(known or processes.costs)
            asyncio.run(bench.run(setup, RealFleet(setup=setup, model=local, processes=processes).play, progress))
    if kills:
        show_pauses(pauses_ms, kills, output)
    else:
        show(bench, setup)


def decision_rows(bench: FleetBench, played: SimulatedFleet) -> list[dict[str, str]]:
    rows = []
    for router in bench.settings.routers:
        cell = Cell("simulated", bench.settings.traces[0], 1.0, bench.settings.seed, router)
        times_ms = played.decisions_ms(cell, bench.load_of(cell, played.setup))
        p50, p99 = np.percentile(times_ms, (50, 99))
        replicas = sum(kind.replicas for kind in played.kinds)
        rows.append({"router": router, "replicas": f"{replicas}", "p50": f"{p50:.3f}", "p99": f"{p99:.3f}"})
    return rows


def speed_row(bench: FleetBench, played: SimulatedFleet) -> dict[str, str]:
    """Of the first load under the first router, which is made beforehand."""
    settings = bench.settings
    cell = Cell("simulated", settings.traces[0], settings.loads[0], settings.seed, settings.routers[0])
    arrivals = bench.load_of(cell, played.setup)
    begin_s = thread_time()
    outcomes = asyncio.run(played.play(cell, arrivals))
    taken_s = thread_time() - begin_s
    return {
        "replicas": f"{sum(kind.replicas for kind in played.kinds)}",
        "requests": f"{len(outcomes)}",
        "answered": f"{sum(outcome.status == 'done' for outcome in outcomes)}",
        "core s": f"{taken_s:.1f}",
        "ms a request": f"{1e3 * taken_s / max(1, len(outcomes)):.3f}",
        "times real": f"{settings.seconds / taken_s:.2f}",
        "peak GB": f"{getrusage(RUSAGE_SELF).ru_maxrss / 1e6:.2f}",
    }


def show_pauses(pauses_ms: Sequence[float], kills: int, output: Path) -> None:
    p50, p99 = np.percentile(pauses_ms, (50, 99))
    print(f"{len(pauses_ms)} streams of {kills} killed replicas went on after {p50:.0f} ms (p50), {p99:.0f} ms (p99)")
    found = {"kills": kills, "p50_ms": p50, "p99_ms": p99, "pauses_ms": pauses_ms, "machine": asdict(Machine.here())}
    write_json(output / "kills.json", found)


def show(bench: FleetBench, setup: FleetSetup) -> None:
    rows = bench.rows()
    rates = ", ".join(f"{rate:.1f} of {trace}" for trace, rate in setup.rates.items())
    print_rows([columns(row) for row in rows], as_json=False, title=f"load 1, in requests a second: {rates}")
    by_trace = map(asdict, bench.rows(by_trace=True))
    found = record_json(setup) | {"rows": list(map(asdict, rows)), "rows_by_trace": list(by_trace)}
    write_json(bench.folder.path / "fleet.json", found)


if __name__ == "__main__":
    run_benchmark(fleet)
