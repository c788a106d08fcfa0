"""Routers side by side, with simulated replicas and recorded loads; the command's arguments."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import fleet
from benchmarks.fleet import FleetBench
from benchmarks.load import played_fleets
from benchmarks.load.fleet_folder import FleetFolder, FleetKind, FleetSettings
from benchmarks.load.local_model import LoadCapacity, LocalModel
from benchmarks.load.played_fleets import SimulatedFleet, router_for
from lts_ray.errors import LtsRayError
from serve.routing.simple_routers import StaticGrid
from tests.benchmarks.load.loads import COSTS, local_model
from tests.serve.models import tiny_menu

KINDS = (FleetKind(name="slow", replicas=2, speed=0.25), FleetKind(name="fast", replicas=1, speed=1.0))
SETTINGS = FleetSettings(
    mode="simulated",
    kinds=KINDS,
    traces=("gamma-4",),
    loads=(0.5, 1.5),
    routers=("budget", "round-robin"),
    rounds=2,
    seconds=2.0,
    replays=8,
)
COSTS_BY_KIND = {kind.name: COSTS.scaled(1 / kind.speed) for kind in KINDS}


def bench(model_dir: Path, folder: Path, settings: FleetSettings = SETTINGS) -> FleetBench:
    return FleetBench(settings=settings, model=local_model(model_dir), folder=FleetFolder(folder))


def run(one: FleetBench, stop_at: int | None = None) -> list[int]:
    told: list[int] = []

    def progress(done: int, total: int) -> None:
        told.append(done)
        if done == stop_at:
            raise KeyboardInterrupt

    setup = one.set_up(COSTS_BY_KIND)
    asyncio.run(one.run(setup, SimulatedFleet(setup=setup, model=one.model).play, progress))
    return told


def test_every_router_gets_the_same_loads_and_a_run_that_was_stopped_goes_on(model_dir: Path, tmp_path: Path) -> None:
    one = bench(model_dir, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(one, stop_at=3)
    kept = one.folder.read_cells()
    assert len(kept) == 3
    assert run(one) == list(range(3, 8))
    cells = one.folder.read_cells()
    assert kept.items() <= cells.items()
    assert cells.keys() == set(SETTINGS.cells())
    for cell, result in cells.items():
        assert result.score.requests == cells[replace(cell, policy="budget")].score.requests > 0
    rows = one.rows()
    assert [(row.load, row.policy) for row in rows] == [
        (load, name) for load in SETTINGS.loads for name in SETTINGS.routers
    ]
    kept_by = {(row.load, row.policy): row.attainment for row in rows}
    ours, theirs = kept_by[0.5, "budget"], kept_by[0.5, "round-robin"]
    assert ours is not None
    assert theirs is not None
    assert ours.mean > theirs.mean  # two of three nodes take four times as long, and it does not know
    assert len({tuple(fleet.columns(row)) for row in rows}) == 1
    with pytest.raises(LtsRayError, match="holds a bench with other seconds; use another --output"):
        bench(model_dir, tmp_path, replace(SETTINGS, seconds=3.0)).setup  # noqa: B018


def test_load_1_is_what_all_nodes_sustain_together(model_dir: Path, tmp_path: Path) -> None:
    rate = bench(model_dir, tmp_path / "a").set_up(COSTS_BY_KIND).rates["gamma-4"]
    alone = replace(SETTINGS, kinds=KINDS[1:])
    assert rate == pytest.approx(1.5 * bench(model_dir, tmp_path / "b", alone).set_up(COSTS_BY_KIND).rates["gamma-4"])


def test_the_static_grid_gives_the_slow_kind_what_it_can_keep(model_dir: Path, tmp_path: Path) -> None:
    setup = bench(model_dir, tmp_path).set_up(COSTS_BY_KIND)
    grid = router_for("static-grid", setup, tiny_menu().universal)
    assert isinstance(grid, StaticGrid)
    (most_ms, first), (_, last) = grid.kinds
    assert (first, last) == ("fast", "slow")
    assert most_ms > 4 * 8


def test_the_oracle_keeps_what_the_best_router_keeps_where_steps_take_what_they_should(
    model_dir: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, loads=(1.0,), routers=("budget", "least-outstanding", "oracle"), rounds=1, noise=0.0)
    one = bench(model_dir, tmp_path, settings)
    run(one)
    kept = {result.cell.policy: result.score.attainment or 0.0 for result in one.folder.read_cells().values()}
    assert kept["oracle"] >= max(kept.values()) - 0.05  # quality counts for it, too
    with pytest.raises(LtsRayError, match="unknown router 'oracle'"):
        bench(model_dir, tmp_path, replace(settings, mode="engine"))


def test_decisions_are_timed_in_the_midst_of_a_load(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second with each look."""
    monkeypatch.setattr(played_fleets, "thread_time", count().__next__)
    one = bench(model_dir, tmp_path)
    rows = fleet.decision_rows(one, SimulatedFleet(setup=one.set_up(COSTS_BY_KIND), model=one.model))
    assert [(row["router"], row["replicas"]) for row in rows] == [("budget", "3"), ("round-robin", "3")]
    assert {(row["p50"], row["p99"]) for row in rows} == {("1000.000", "1000.000")}


def test_the_simulators_speed_is_that_of_the_first_load(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "thread_time", count().__next__)
    one = bench(model_dir, tmp_path)
    played = SimulatedFleet(setup=one.set_up(COSTS_BY_KIND), model=one.model)
    row = fleet.speed_row(one, played)
    load = one.load_of(next(cell for cell in SETTINGS.cells() if (cell.load, cell.seed) == (0.5, 0)), played.setup)
    assert (row["replicas"], row["requests"], row["answered"]) == ("3", f"{len(load)}", f"{len(load)}")
    assert (row["core s"], row["ms a request"]) == ("1.0", f"{1e3 / len(load):.3f}")
    assert 0 < float(row["peak GB"]) < 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kinds", "fast"), "a kind is name:replicas:speed, such as slow:2:0.4; got 'fast'"),
        (("--kinds", "fast:1:2"), "settings.kinds.0.speed must be at most 1; got '2'"),
        (("--kinds", ""), "settings.kinds"),
        (("--kinds", "a:1:1,a:1:1"), "kinds must be at least one, and each only once; got a, a"),
        (("--loads", "0"), "settings.loads.0 must be above 0"),
        (("--routers", "best"), "unknown router 'best'; known: budget, "),
        (("--traces", "storm"), "unknown trace 'storm'"),
        (("--recorded", "nowhere.csv"), "trace nowhere.csv does not exist"),
    ],
)
def test_bad_arguments_are_told_in_one_line(
    arguments: tuple[str, ...], message: str, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(LtsRayError, match=message):
        invoke("--model", model_dir, "--output", tmp_path / "out", "--simulate", *arguments)
    assert not (tmp_path / "out").exists()


def invoke(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(fleet.fleet)
    return CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False).stdout


def test_the_command_goes_on_with_what_the_folder_has(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet.options, "CONTEXT", 48)
    settings = replace(SETTINGS, replays=60, traces=("ramp",), loads=(0.5,), routers=("budget",), rounds=1, seconds=1.0)
    model = LocalModel(model_dir, capacity=LoadCapacity(context_length=48), threads=1)
    FleetBench(settings=settings, model=model, folder=FleetFolder(tmp_path)).set_up(
        COSTS_BY_KIND
    )  # nothing is measured
    command = ("--model", model_dir, "--output", tmp_path, "--simulate", "--kinds", "slow:2:0.25,fast:1:1")
    command += ("--loads", 0.5, "--seconds", 1, "--rounds", 1, "--traces", "ramp")
    assert "budget" in invoke(*command, "--routers", "budget")
    assert "round-robin" in invoke(*command, "--routers", "budget,round-robin")
    found = json.loads((tmp_path / "fleet.json").read_text())
    assert [row["policy"] for row in found["rows"]] == ["budget", "round-robin"]
    assert found["rows_by_trace"][0]["trace"] == "ramp"
    assert found["settings"]["kinds"][0] == {"name": "slow", "replicas": 2, "speed": 0.25}
