"""Autoscalers side by side: one bench of all kinds of loads at a toy's scale, which goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import autoscaling as command
from benchmarks.autoscaling import ScalingBench, ScalingSettings, autoscaling
from benchmarks.load.scaling_rows import rows_of
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.record import record_json
from serve.autoscaling.attainment_autoscaler import AttainmentSettings
from serve.autoscaling.named_autoscalers import AUTOSCALERS
from serve.simulate.fleet_run import FleetRun
from serve.simulate.request_outcome import refused
from serve.traffic.arrival import Arrival
from serve.traffic.recorded_trace import RecordedTrace
from tests.benchmarks.load.loads import COSTS, local_model


@pytest.fixture
def bench(model_dir: Path) -> ScalingBench:
    return ScalingBench(settings=ScalingSettings(replicas=2, seconds=60), model=local_model(model_dir), costs=COSTS)


def test_replicas_are_so_heavy_that_they_bear_the_rate_and_a_small_one_takes_twice_as_long(bench: ScalingBench) -> None:
    large, small = bench.kinds()
    assert small.node.costs.base[0] == pytest.approx(2 * large.node.costs.base[0])
    assert large.node.costs.base[0] > 5 * COSTS.base[0]
    assert (large.node.costs.slowdown, large.replicas, large.max_replicas) == (1, 2, 8)
    assert 10 < len(bench.load("gamma-4", 1)) < 90
    assert bench.load("day", 1)[-1].at_ms > 60_000


def test_a_recorded_trace_is_made_as_dense_as_the_bench_and_keeps_its_shape(bench: ScalingBench) -> None:
    times = np.concatenate([np.linspace(0, 30_000, 10), np.linspace(100_000, 130_000, 90)])
    recorded = RecordedTrace("hour", times, np.full((100, 2), 9, dtype=np.int64))
    dense = replace(bench, recorded=recorded, settings=ScalingSettings(replicas=20, seconds=200)).load("hour", 1)
    late = np.mean([arrival.at_ms > 70_000 for arrival in dense])
    assert 500 < len(dense) < 800
    assert 0.85 < late < 0.95


def test_the_table_has_every_autoscaler_and_a_bench_that_is_asked_again_plays_nothing(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"model": model_dir, "output": tmp_path, "traces": "gamma-4", "recorded": None}
    given |= {"replicas": 2, "seconds": 60.0, "rounds": 1, "calibration": 0.1, "costs": None, "seed": 3}
    words = [*AUTOSCALERS, "ray:6", "oracle:1"]
    about = {
        "model": local_model(model_dir).fingerprint,
        "settings": record_json(ScalingSettings(replicas=2, seconds=60)),
    }
    write_json(tmp_path / "setup.json", {**about, "costs": asdict(COSTS)})
    autoscaling(**given, autoscalers=",".join(words))
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "autoscaling.json").read_text())["rows"]
    assert [row["autoscaler"] for row in rows] == words
    assert all(word in printed for word in words)
    assert all(row["cost"] > 0 and 0 <= row["kept %"] <= 100 for row in rows)
    monkeypatch.setattr(ScalingBench, "play", lambda *args: pytest.fail("it was played already"))
    autoscaling(**given, autoscalers=",".join(words))
    with pytest.raises(LtsRayError, match="other settings"):
        autoscaling(**(given | {"replicas": 3}), autoscalers="ray")
    with pytest.raises(LtsRayError, match="unknown autoscaler 'magic'"):
        autoscaling(**given, autoscalers="magic")


def test_real_replicas_are_few_and_what_autoscalers_count_in_seconds_is_shorter(
    bench: ScalingBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays: list[dict[str, Any]] = []

    def play(arrivals: Sequence[Arrival], **about: Any) -> FleetRun:
        plays.append(about)
        lost = tuple(refused(arrival, "rejected", {}) for arrival in arrivals)
        return FleetRun(outcomes=lost, places=(), replica_hours={"small": 0.5}, cost=0.15)

    monkeypatch.setattr(command, "play_scaled", play)
    monkeypatch.setattr(command, "measured_costs", lambda order: COSTS)
    given: dict[str, Any] = {"model": bench.model.folder, "output": tmp_path, "seconds": 20.0, "real": True}
    autoscaling(**given)
    rows = json.loads((tmp_path / "real" / "autoscaling.json").read_text())["rows"]
    assert [row["autoscaler"] for row in rows] == ["attainment", "ray-fast", "fixed:1", "fixed:3"]
    assert [(row["kept %"], row["replica-hours"], row["cost"]) for row in rows] == [(0.0, 0.5, 0.15)] * 4
    assert [play["first"] for play in plays] == [1, 1, 1, 3]
    known = AttainmentSettings()
    assert plays[0]["autoscaler"].settings.hold_s == known.hold_s / 6
    assert plays[0]["autoscaler"].settings.learning == known.learning * 6
    assert plays[0]["order"].costs == COSTS
    assert plays[0]["order"].costs == COSTS
    worst = 1.01 * bench.losses[bench.model.menu.universal.name]
    assert plays[0]["order"].worst_loss == pytest.approx(worst)
    with pytest.raises(LtsRayError, match="--real measures its own steps"):
        autoscaling(**given, costs=tmp_path)


def test_costs_are_compared_where_a_peer_keeps_what_is_wanted() -> None:
    def cell(word: str, kept: float, cost: float) -> dict[str, Any]:
        scored = {"attainment": kept, "loss": 3.03}
        return {
            "trace": "t",
            "autoscaler": word,
            "cost": cost,
            "replica_hours": {"a": 2.0},
            "decisions": [],
            "score": scored,
        }

    rows = rows_of([cell("attainment", 0.99, 6.0), cell("ray", 0.995, 10.0), cell("fixed", 0.9, 5.0)], 3.0)
    assert [row["attainment costs less %"] for row in rows] == [0.0, pytest.approx(40.0), None]
    assert rows[0]["loss %"] == pytest.approx(1.0)
