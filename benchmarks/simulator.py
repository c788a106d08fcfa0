"""The simulator beside the real endpoint: the same requests to both, and how far times and attainment are apart.

The real side is the endpoint's own fleet and engines, in processes with shares of a core. Before it gets loads that
count, one warms it up, and lone requests show what the way to an engine and back takes. The simulator then knows what
the steps up to a load took, as the engines themselves do, and nothing of the load but its requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common.command import names_of, run_benchmark, shown_progress
from benchmarks.common.machine import Machine
from benchmarks.common.turns import Progress
from benchmarks.fleet import FleetBench
from benchmarks.load import load_options as options
from benchmarks.load.clients import Prompt, engine_client, replay_load
from benchmarks.load.compared_load import COMPARED, LOAD, Cell, ComparedLoad, compare
from benchmarks.load.fleet_folder import FleetFolder, FleetSettings, FleetSetup, kinds_given
from benchmarks.load.kept_steps import LIVED, TakenStep, fitted
from benchmarks.load.local_model import LoadCapacity, LocalModel
from benchmarks.load.played_fleets import LEARNED, RealFleet, simulated_kind
from benchmarks.load.policies_folder import Cell as FleetCell
from benchmarks.load.replica_processes import ReplicaOrder, ReplicaProcesses, replica_processes
from lts_ray.cli.options import Model, Output, Seed
from lts_ray.console import print_rows
from lts_ray.files import append_json_line, read_json_lines, write_json, write_json_lines
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.record import read_record, record_json
from serve.policies.budget import NO_BUDGET, Kind
from serve.policies.deadline import DeadlinePolicy
from serve.routing.named_routers import router_named
from serve.simulate.fleet_oracle import FleetOracle
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate_fleet import simulate_fleet
from serve.simulate.simulated_kind import SimulatedKind
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import NO_CLASS
from serve.traffic.load import make_prompts
from serve.traffic.recorded_trace import read_recorded

Steps = Mapping[str, Sequence[TakenStep]]
"""By replica."""
ROUTER = "budget"
FLEETS = ("one:1:1", "fast:1:0.8,slow:1:0.4")
WARM_UP = 0.8
"""The load that does not count."""
LONE, LONE_MS, PROMPT_TOKENS = 24, (60.0, 90.0), 16
"""Requests that come alone, of each replica: how many, how far apart, and how long."""
NOISE, GAPS = 15, 16
"""Streams of random numbers; see serve.traffic.load for the others."""


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """To an engine and back, in milliseconds."""

    hand_over_ms: float
    """From when a request is due until its engine begins with it."""
    delivery_ms: float
    """From a step's end until the client has its tokens."""


@dataclass(frozen=True, kw_only=True)
class SimulatorBench:
    """Of one fleet."""

    name: str
    bench: FleetBench
    plays: int
    """Of each load on the real endpoint."""
    replays: int
    """In the simulator."""

    @property
    def model(self) -> LocalModel:
        return self.bench.model

    @property
    def file(self) -> Path:
        return self.bench.folder.path / "loads.jsonl"

    def cells(self) -> list[Cell]:
        settings = self.bench.settings
        loads = product(range(settings.rounds), settings.traces, settings.loads)
        return [(self.name, trace, load, number) for number, trace, load in loads]

    def done(self) -> dict[Cell, ComparedLoad]:
        """Mends a last line that a kill cut off, so that the next one does not continue it."""
        lines = read_json_lines(self.file, what="the loads")
        if lines:
            write_json_lines(self.file, lines)
        return {load.cell: load for load in map(LOAD.validate_python, lines)}

    async def run(self, setup: FleetSetup, processes: ReplicaProcesses, progress: Progress) -> None:
        """The cells that the folder does not hold yet; each is kept as soon as it is over."""
        done, cells = self.done(), self.cells()
        missing = [cell for cell in cells if cell not in done]
        real = RealFleet(setup=setup, model=self.model, processes=processes)
        warm_up = FleetCell("engine", self.bench.settings.traces[0], WARM_UP, self.bench.settings.seed + 1000, ROUTER)
        await real.play(warm_up, self.bench.load_of(warm_up, setup))
        trips = await self._round_trips(processes)
        for number, cell in enumerate(missing, start=len(cells) - len(missing)):
            progress(number, len(cells))
            _, trace, load, round = cell
            asked = FleetCell("engine", trace, load, self.bench.settings.seed + round, ROUTER)
            arrivals = self.bench.load_of(asked, setup)
            before = processes.steps()
            plays = [await real.play(asked, arrivals)]
            during = {id: steps[len(before[id]) :] for id, steps in processes.steps().items()}
            plays += [await real.play(asked, arrivals) for _ in range(self.plays - 1)]
            replays, own_replays = (
                [self._simulated(arrivals, kinds, seed) for seed in range(self.replays)]
                for kinds in (self._kinds(setup, trips, before, steps) for steps in (before, during))
            )
            should = self._should(setup, before, during)
            compared = compare(cell, plays, replays, own_replays, menu=self.model.menu, steps=should)
            append_json_line(self.file, LOAD.dump_python(compared, mode="json"))

    async def _round_trips(self, processes: ReplicaProcesses) -> dict[str, RoundTrip]:
        """By replica, of requests that come alone: the time that is not in a step."""
        ids = [address.id for address in processes.read()] * LONE
        rng = np.random.default_rng([self.bench.settings.seed, GAPS])
        times_ms = np.cumsum(rng.uniform(*LONE_MS, size=len(ids)))
        common: dict[str, Any] = {"prompt_tokens": PROMPT_TOKENS, "output_tokens": 2, "budget": NO_BUDGET}
        arrivals = [Arrival(at_ms=float(at_ms), klass=NO_CLASS, **common) for at_ms in times_ms]
        prompts = make_prompts(arrivals, seed=self.bench.settings.seed, vocab_size=self.model.config.vocab_size)
        due: dict[float, float] = {}
        outcomes: dict[int, Outcome] = {}
        async with processes.fleet(FleetOracle(places=ids), self.model) as fleet:
            client = engine_client(fleet, by_client=True)

            async def ask(arrival: Arrival, prompt: Prompt, due_s: float) -> Outcome:
                due[arrival.at_ms] = due_s
                return await client(arrival, prompt, due_s)

            await replay_load(ask, arrivals, list(prompts), clock=fleet.clock, ended=outcomes.__setitem__)
        firsts = {
            id: [taken for taken in steps if taken.step.reads_prompt][-LONE:] for id, steps in processes.steps().items()
        }
        found: dict[str, list[tuple[float, float]]] = {id: [] for id in firsts}
        for number, id in enumerate(ids):
            outcome, step = outcomes[number], firsts[id][len(found[id])]
            assert outcome.timing is not None
            begun_s = due[outcome.arrival.at_ms]
            to_end_ms = 1e3 * (step.end_s - begun_s)
            found[id].append((to_end_ms - step.took_ms, outcome.timing.ttft_ms - to_end_ms))
        return {id: _round_trip(ms) for id, ms in found.items()}

    def _kinds(
        self, setup: FleetSetup, trips: Mapping[str, RoundTrip], before: Steps, measured: Steps
    ) -> list[SimulatedKind]:
        """Before a load; all of a kind as its first replica. measured: the steps whose costs and noise they have."""
        found = []
        for kind in self.bench.settings.kinds:
            id, calibrated = kind.ids[0], setup.costs[kind.name]
            fit = fitted(calibrated, measured[id] or before[id])
            node = replace(
                self.model.replica(fit.costs),
                believed=replace(calibrated, slowdown=1.0, prompt_slowdown=1.0, overhead_ms=0.0),
                recorded=fit.recorded,
                recorded_prompts=fit.recorded_prompts,
                attainment=LEARNED,
                lived=tuple((taken.step, taken.took_ms) for taken in before[id][-LIVED:]),
                **asdict(trips[id]),
            )
            found.append(simulated_kind(kind, node))
        return found

    def _should(self, setup: FleetSetup, before: Steps, during: Steps) -> Iterator[tuple[TakenStep, float]]:
        """Each step of a load, and what it should have taken by those before the load."""
        for id, steps in during.items():
            costs = fitted(setup.costs[id.rsplit("-", 1)[0]], before[id]).costs
            for taken in steps:
                yield taken, costs.served_ms(taken.step.quiet_ms, reads_prompt=taken.step.reads_prompt)

    def _simulated(self, arrivals: Sequence[Arrival], kinds: Sequence[SimulatedKind], seed: int) -> Sequence[Outcome]:
        rng = np.random.default_rng([self.bench.settings.seed, seed, NOISE])
        router = router_named(ROUTER)
        return simulate_fleet(arrivals, kinds=kinds, router=router, policy=DeadlinePolicy, rng=rng).outcomes


def _round_trip(ms: Sequence[tuple[float, float]]) -> RoundTrip:
    hand_over_ms, delivery_ms = np.maximum(0.0, np.median(ms, axis=0)).tolist()
    return RoundTrip(hand_over_ms=hand_over_ms, delivery_ms=delivery_ms)


def columns(load: ComparedLoad) -> dict[str, str]:
    def percent(value: float | None, sign: str = "") -> str:
        return "–" if value is None else f"{100 * value:{sign}.1f}"

    def off(kind: Kind, percents: int) -> str:
        real, simulated = load.percentiles[f"{kind} p{percents}"]
        return percent(simulated / real - 1, "+")

    fleet, trace, times, _ = load.cell
    return {
        "fleet": fleet,
        "trace": trace,
        "load": f"{times:g}",
        "requests": f"{load.requests}",
        **{
            f"{kind}{name}": ", ".join(texts)
            for kind in COMPARED
            for name, texts in (
                (" off %, bias", (percent(load.error[kind]), percent(load.bias[kind], "+"))),
                (" own, again", (percent(load.error_own[kind]), percent(load.apart[kind] if load.apart else None))),
                (" p50, p99", (off(kind, 50), off(kind, 99))),
            )
        },
        "kept %": "–" if load.attainment is None else ", ".join(map(percent, load.attainment)),
        "loss": "{:.3f}, {:.3f}".format(*load.loss),
        "steps slower %, off": f"{percent(load.slower, '+')}, {percent(load.step_error)}",
    }


def simulator(
    model: Model = DEFAULT_MODEL,
    output: Output = Path("runs/simulator"),
    fleet: Annotated[
        list[str] | None, typer.Option(help="Kinds of node, each name:replicas:share of a core; may be given again.")
    ] = None,
    loads: Annotated[str, typer.Option(help="In multiples of the fleet's saturation.")] = "0.5,0.8",
    traces: Annotated[str, typer.Option(help="When requests come: poisson, gamma-4, ramp, ….")] = "gamma-4,ramp",
    recorded: Annotated[
        Path | None, typer.Option(help="CSV of a service's requests, as Azure publishes them: one trace more.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long each load lasts.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="Loads of each trace and rate.")] = 1,
    plays: Annotated[int, typer.Option(min=1, help="Of a load on the endpoint: with 2, how far apart they are.")] = 1,
    replays: Annotated[int, typer.Option(min=1, help="Of a load in the simulator: their median counts.")] = 9,
    calibration: options.Calibration = options.CALIBRATION_S,
    seed: Seed = 0,
) -> None:
    """The simulator beside the endpoint: errors of times, request by request, and attainment. Run again, it goes on."""
    local = LocalModel(model, capacity=LoadCapacity(context_length=options.CONTEXT), threads=1)
    trace = None if recorded is None else read_recorded(recorded)
    found: list[ComparedLoad] = []
    setups: dict[str, Any] = {}
    for kinds in fleet or FLEETS:
        given = {
            "mode": "engine",
            "kinds": kinds_given(kinds),
            "traces": [*names_of(traces), *([] if trace is None else [trace.name])],
            "loads": names_of(loads),
            "routers": [ROUTER],
            "rounds": rounds,
            "seed": seed,
            "seconds": seconds,
        }
        settings = read_record(FleetSettings, given, what="settings")
        name = "+".join(kind.name for kind in settings.kinds)
        bench = FleetBench(settings=settings, model=local, folder=FleetFolder(output / name), recorded=trace)
        one = SimulatorBench(name=name, bench=bench, plays=plays, replays=replays)
        if set(one.cells()) - one.done().keys():
            common: dict[str, Any] = {"model": model, "frontier": None, "target": None, "capacity": local.capacity}
            known = None if bench.setup is None else bench.setup.costs
            orders = [
                ReplicaOrder(
                    id=id,
                    kind=kind,
                    calibration_s=calibration,
                    costs=None if known is None else known[kind.name],
                    **common,
                )
                for kind in settings.kinds
                for id in kind.ids
            ]
            with replica_processes(orders) as processes, shown_progress(f"loads of {name}") as progress:
                asyncio.run(one.run(bench.set_up(processes.costs), processes, progress))
        done = one.done()
        found += [done[cell] for cell in one.cells()]
        setups[name] = record_json(bench.setup) if bench.setup else None
    print_rows([columns(load) for load in found], as_json=False, title="Simulated against real")
    rows = [LOAD.dump_python(load, mode="json") for load in found]
    write_json(output / "simulator.json", {"setups": setups, "machine": asdict(Machine.here()), "loads": rows})


if __name__ == "__main__":
    run_benchmark(simulator)
