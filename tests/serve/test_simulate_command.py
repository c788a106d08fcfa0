"""`lts-ray simulate`: what it prints and leaves, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lts_ray.checkpoints.universal import universal_fingerprint
from lts_ray.runtime.node_calibration import NodeCalibration
from lts_ray.runtime.step_costs import StepCosts
from serve import simulate_command
from tests.conftest import ROOT

FLAT = StepCosts(grid=(1, 1000), base=(1.0, 1.0), neuron=(0.1, 0.1), head=(0.0, 0.0), attended=0.0)


@pytest.fixture
def fleet(model_dir: Path, tmp_path: Path) -> Path:
    """Two kinds, the second at half the speed; steps stray as the file says, and a replica dies."""
    calibration = NodeCalibration(model=universal_fingerprint(model_dir), costs=FLAT, ratios=(0.9, 1.0, 1.3) * 50)
    calibration.write(tmp_path / "costs.json")
    slow: dict[str, object] = {"name": "slow", "cost_per_hour": 0.5, "max_replicas": 3}
    slow["simulated"] = {"step_costs": "costs.json", "slower": 2.0, "drift": 0.1}
    faults = [{"at_s": 2.0, "kind": "fast", "replica": 0}]
    kinds = [{"name": "fast", "min_replicas": 2, "simulated": {"step_costs": "costs.json", "node_s": 30.0}}, slow]
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({"kinds": kinds, "faults": faults}))
    return path


def simulate(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        simulate_command.main([str(word) for word in words])
    return int(end.value.code or 0)


def test_it_prints_tables_and_leaves_a_file(
    fleet: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = simulate("-f", fleet, "-m", model_dir, "--seconds", 5, "--report", tmp_path / "out")
    out = capsys.readouterr().out
    assert code == 0
    assert "tight" in out
    assert "slow" in out
    assert "mean loss" in out
    left = json.loads((tmp_path / "out" / "run.json").read_text())
    assert left["schema"] == 1
    assert left["settings"]["fleet"] == str(fleet)
    result = left["result"]
    assert result["requests"] > 50
    assert list(result["by_class"]) == ["loose", "medium", "tight"]
    assert result["kinds"]["fast"]["cost"] > 2 * result["kinds"]["slow"]["cost"] > 0
    assert set(left["series"]["kinds"]) == {"fast", "slow"}
    assert simulate("-f", fleet, "-m", model_dir, "--seconds", 5, "--json") == 0
    assert json.loads(capsys.readouterr().out) == result


def test_the_same_seed_gives_the_same_bytes(fleet: Path, model_dir: Path, tmp_path: Path) -> None:
    """By the command itself, in two processes that order their sets differently."""
    left = []
    for hashes in ("1", "2"):
        output = tmp_path / hashes
        words = [
            "--fleet",
            fleet,
            "--model",
            model_dir,
            "--seconds",
            "12",
            "--rate",
            "10",
            "--autoscaling",
            "attainment",
            "--seed",
            "5",
            "--report",
            output,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "lts_ray.cli.main", "simulate", *map(str, words)],
            env=os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
        left.append((done.stdout, (output / "run.json").read_bytes()))
    assert left[0] == left[1]


def test_several_routers_are_side_by_side(
    fleet: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-f", fleet, "-m", model_dir, "--seconds", 2, "--json", "--report", tmp_path / "both"]
    assert simulate(*words, "--router", "budget,round-robin,budget") == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result.pop("run") for result in results] == ["budget", "round-robin"]
    left = [json.loads((tmp_path / "both" / f"run-{name}.json").read_text()) for name in ("budget", "round-robin")]
    assert [run["result"] for run in left] == results
    assert left[0]["load"] == left[1]["load"]
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        "index.html",
        "run-budget.json",
        "run-round-robin.json",
    }
    assert simulate(*words[:-3], "--router", "round-robin", "--report", tmp_path / "one") == 0
    assert json.loads((tmp_path / "one" / "run.json").read_text()) == left[1]  # as without another one beside it


def plan_words(fleet: Path, model_dir: Path, most: int) -> list[object]:
    raw = yaml.safe_load(fleet.read_text())
    for kind in raw["kinds"]:
        kind |= {"min_replicas": 0, "max_replicas": most}
    fleet.write_text(yaml.safe_dump(raw))
    return ["-f", fleet, "-m", model_dir, "--seconds", 2, "--rate", 30, "--plan"]


def test_a_plan_has_the_front_and_the_cheapest_fleet_that_keeps_what_is_wanted(
    fleet: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = plan_words(fleet, model_dir, 2)
    assert simulate(*words, "--attainment", 0.9, "--report", tmp_path / "plan") == 0
    out = capsys.readouterr().out
    assert "Of 8 fleets " in out
    answer = out.splitlines()[-1]
    assert answer.startswith("The cheapest fleet that keeps 90 % of the budgets is ")
    assert answer in (tmp_path / "plan" / "index.html").read_text(encoding="utf-8")
    assert simulate(*words, "--attainment", 0.9, "--json") == 0
    front = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    costs = [fleet["cost_per_hour"] for fleet in front]
    assert costs == sorted(costs)
    for planned in front:
        assert planned["cost_per_hour"] == planned["replicas"]["fast"] + 0.5 * planned["replicas"]["slow"]
        assert max(planned["replicas"].values()) <= 2
    (cheapest,) = [planned for planned in front if planned["cheapest"]]
    assert all(planned["attainment"] < 0.9 for planned in front if planned["cost_per_hour"] < cheapest["cost_per_hour"])
    counts = ", ".join(f"{count} {kind}" for kind, count in cheapest["replicas"].items() if count)
    assert f" is {counts} ({100 * cheapest['attainment']:.2f} % at {cheapest['cost_per_hour']:g} an hour)" in answer


def test_where_no_fleet_keeps_what_is_wanted_one_line_says_how_far_the_best_one_goes(
    fleet: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(*plan_words(fleet, model_dir, 1), "--budgets", "0.1,0.2,0.3") == 2
    said = capsys.readouterr()
    assert "fast" in said.out
    assert said.err.splitlines()[-1].startswith("lts-ray: No fleet keeps 99 % of the budgets: 1 fast")


def test_ctrl_c_ends_it_in_one_line_and_leaves_nothing(fleet: Path, model_dir: Path, tmp_path: Path) -> None:
    words = ["-f", fleet, "-m", model_dir, "--seconds", 1000, "--report", tmp_path / "out"]
    with subprocess.Popen(
        [sys.executable, "-m", "serve.simulate_command", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("simulating") for line in lines)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (2, "")
    assert [line for line in err.splitlines() if not line.startswith("simulating")] == ["lts-ray: interrupted"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trace", "sunday"], "trace sunday does not exist"),
        (["--router", "best"], "unknown router 'best'; known: budget, "),
        (["--policy", "best"], "unknown policy 'best'; known: deadline, "),
        (["--autoscaling", "best"], "unknown autoscaler 'best'; known: "),
        (["--router", "budget,best"], "unknown router 'best'; known: budget, "),
        (["--plan", "--router", "budget,round-robin"], "a plan is of one router"),
        (["--attainment", "1"], "settings.attainment must be "),
        (["--quality-floor", "none"], "quality_floor must be a loss, or a submodel whose loss is known (S, M, L, XL)"),
        (["--load", "0"], "settings.load must be above 0; got 0"),
        (["--load", "nan"], "settings.load must be "),
        (["--load", "1", "--rate", "1"], "a rate and a load say two things"),
        (["--seconds", "-1"], "settings.seconds must be above 0; got -1"),
        (["--rate", "1e9"], "a load of 6e+10 requests is above the 10,000,000"),
        (["--rate", "0.0001", "--seconds", "1"], "no request comes in 1 s at 0.0001 a second"),
        (["--budgets", "2,4"], "--budgets are three numbers, such as 2,4,8; got '2,4'"),
        (["--budgets", "4,2,8"], "budgets must be growing multiples above 0; got 4, 2, 8"),
        (["--costs", "fast"], "--costs is KIND=FILE, such as cpu-small=costs.json; got 'fast'"),
        (["--costs", "fats=a.json"], "step costs of kind 'fats', of which "),
        (["--costs", "fast=a.json"], "step costs a.json does not exist"),
        (["--fleet", "none.yaml"], "fleet file none.yaml does not exist"),
        (["--frontier", "none.json"], "none.json does not exist"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(
    words: list[str], message: str, fleet: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("--fleet", fleet, "-m", model_dir, *words) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading")]
    assert len(err) == 1
    assert err[0].startswith("lts-ray: ")
    assert message in err[0]
