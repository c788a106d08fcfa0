"""Replicas in processes of their own: served, scaled, killed under streams, slowed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import simulator
from benchmarks.fleet import FleetBench
from benchmarks.load import load_options as options
from benchmarks.load import scaled_processes
from benchmarks.load.clients import replay_load
from benchmarks.load.fleet_folder import FleetFolder, FleetKind, FleetSettings
from benchmarks.load.local_model import LoadCapacity, LocalModel
from benchmarks.load.migration_pauses import migration_pauses
from benchmarks.load.played_fleets import RealFleet
from benchmarks.load.replica_processes import ReplicaOrder, ReplicaProcess, ReplicaProcesses, replica_processes
from benchmarks.load.scaled_processes import ScaledProcesses
from benchmarks.load.slowed_process import PERIOD_S, slowed
from benchmarks.simulator import SimulatorBench
from lts_ray.errors import LtsRayError
from serve.autoscaling.autoscaler import Scaling
from serve.autoscaling.fleet_state import FleetState
from serve.traffic.arrival import Arrival
from tests.benchmarks.load.loads import COSTS

KINDS = (FleetKind(name="fast", speed=0.4), FleetKind(name="slow", speed=0.3))
"""A tiny model's streams would end before anything could happen to them."""
CAPACITY = LoadCapacity(context_length=48, max_queue=10_000)
"""A machine as busy as may be refuses none."""


def order(model_dir: Path, kind: FleetKind) -> ReplicaOrder:
    return ReplicaOrder(
        id=kind.ids[0],
        kind=kind,
        model=model_dir,
        frontier=None,
        target=None,
        capacity=CAPACITY,
        calibration_s=0.1,
        costs=COSTS,
    )


def test_processes_serve_loads_beside_the_simulator_and_streams_go_on_when_one_is_killed(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulator, "LONE", 2)
    monkeypatch.setattr(options, "CONTEXT", 48)
    settings = FleetSettings(
        mode="engine", kinds=KINDS, traces=("gamma-4",), loads=(0.5,), routers=("budget",), rounds=1, seconds=1.0
    )
    model = LocalModel(model_dir, capacity=CAPACITY, threads=1)
    bench = FleetBench(settings=settings, model=model, folder=FleetFolder(tmp_path / "fast+slow"))
    beside = SimulatorBench(name="fast+slow", bench=bench, plays=2, replays=2)
    with replica_processes([order(model_dir, kind) for kind in KINDS]) as processes:
        assert processes.costs.keys() == {"fast", "slow"}
        setup = bench.set_up(processes.costs)
        played = RealFleet(setup=setup, model=model, processes=processes)
        asyncio.run(bench.run(setup, played.play, lambda done, total: None))
        asyncio.run(beside.run(setup, processes, lambda done, total: None))
        (cell,) = settings.cells()
        one_goes_and_one_comes(processes, model, bench.load_of(cell, setup), monkeypatch)
        pauses = asyncio.run(migration_pauses(processes, model, kills=1, seed=0, progress=lambda done, total: None))
        assert len(processes.read()) == 1
    (result,) = bench.folder.read_cells().values()
    assert result.score.requests > 0
    assert (result.score.failed, result.score.rejected) == (0, 0)
    assert pauses
    assert all(pause > 0 for pause in pauses)
    shown = beside_the_simulator("--model", model_dir, "--output", tmp_path, monkeypatch=monkeypatch)
    assert "Simulated against real" in shown
    (load,) = json.loads((tmp_path / "simulator.json").read_text())["loads"]
    assert load["requests"] == result.score.requests >= load["answered"] > 0
    assert all(error >= 0 for name in ("error", "error_own", "apart") for error in load[name].values())


def one_goes_and_one_comes(
    processes: ReplicaProcesses, model: LocalModel, arrivals: tuple[Arrival, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replay(*arguments: Any, **about: Any) -> None:
        """Until all has happened that is to happen."""
        await replay_load(*arguments, **about)
        while [address.id for address in processes.read()] != ["fast-0", "fast-2"]:
            await asyncio.sleep(0.01)

    monkeypatch.setattr(scaled_processes, "TICK_S", 0.01)
    monkeypatch.setattr(scaled_processes, "replay_load", replay)
    told = Told(1, 2)
    scaled = ScaledProcesses(processes, order(model.folder, KINDS[0]), told, start_s=7.0)
    run = asyncio.run(scaled.play(arrivals, model=model, seed=0))
    first, second = [state.kinds[0] for state in told.states[:2]]
    assert (first.start_s, first.target, list(first.replicas)) == (7.0, 2, ["fast-0", "slow-0"])
    assert all(load.window_s > 0 for load in first.replicas.values())
    assert any(load.came > 0 for state in told.states for load in state.kinds[0].replicas.values())
    assert (second.target, list(second.replicas)) == (1, ["fast-0"])
    assert [decision.targets for decision in run.decisions] == [{"fast": 1}, {"fast": 2}]
    assert {outcome.status for outcome in run.outcomes} == {"done"}
    assert len(run.outcomes) == len(arrivals)
    assert run.replica_hours is not None
    assert run.cost > 0
    assert run.cost == pytest.approx(0.4 * run.replica_hours["fast"])


class Told:
    """An autoscaler that says what it was told, and keeps to the last."""

    name = "told"

    def __init__(self, *counts: int) -> None:
        self.counts, self.states = list(counts), list[FleetState]()

    def decide(self, state: FleetState) -> Scaling:
        self.states.append(state)
        return Scaling(targets={"fast": self.counts[min(len(self.states), len(self.counts)) - 1]}, reason="told so")


def beside_the_simulator(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> str:
    """The command, where the folder has all that it asks for."""
    monkeypatch.setattr(simulator, "replica_processes", None)
    monkeypatch.setattr(simulator, "LoadCapacity", lambda **_: CAPACITY)
    app = typer.Typer()
    app.command()(simulator.simulator)
    given = ("--fleet", "fast:1:0.4,slow:1:0.3", "--traces", "gamma-4", "--loads", 0.5, "--seconds", 1.0)
    return CliRunner().invoke(app, [str(each) for each in (*arguments, *given)], catch_exceptions=False).stdout


def test_a_replica_that_cannot_start_is_told_in_one_line(model_dir: Path) -> None:
    process = ReplicaProcess(order(model_dir, KINDS[0]))
    process.end(at_once=True)
    with pytest.raises(LtsRayError, match="the process of replica fast-0 has ended; see what it printed"):
        process.wait()


BUSY = "import time\nprint(flush=True)\nwhile True: sum(range(1000))"


def test_a_slowed_process_is_stopped_for_the_rest_of_each_period_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it is told, and for how long; in between it is looked at, as often as it takes to see both."""
    told: list[list[str]] = []
    popen = subprocess.Popen

    def noted(command: list[str], **given: Any) -> subprocess.Popen[bytes]:
        told.append(command)
        return popen(command, **given)

    with popen([sys.executable, "-S", "-c", BUSY], stdout=subprocess.DEVNULL) as process:
        monkeypatch.setattr(subprocess, "Popen", noted)
        try:
            with slowed(process.pid, 0.2):
                while state(process.pid) != "T":
                    pass
                while state(process.pid) == "T":
                    pass
        finally:
            process.kill()
    assert [float(each) for each in told[0][-2:]] == pytest.approx([0.2 * PERIOD_S, 0.8 * PERIOD_S])


def test_a_process_that_outlives_its_slowing_is_left_running() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", BUSY], stdout=subprocess.DEVNULL) as process:
        with slowed(process.pid, 0.5):
            pass
        left = state(process.pid)
        process.send_signal(signal.SIGKILL)
    assert left in {"R", "S", "D"}


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
