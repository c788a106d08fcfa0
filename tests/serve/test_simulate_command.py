"""`lts-ray simulate`: what it prints and leaves, and one line for what is wrong."""

from __future__ import annotations

import json
import os
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
    """Two kinds, the second at half the speed; steps stray as the file says."""
    calibration = NodeCalibration(model=universal_fingerprint(model_dir), costs=FLAT, ratios=(0.9, 1.0, 1.3) * 50)
    calibration.write(tmp_path / "costs.json")
    slow = {"name": "slow", "cost_per_hour": 0.5, "simulated": {"step_costs": "costs.json", "slower": 2.0}}
    kinds = [{"name": "fast", "min_replicas": 2, "simulated": {"step_costs": "costs.json", "node_s": 30.0}}, slow]
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({"kinds": kinds}))
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
        words = ["--fleet", fleet, "--model", model_dir, "--seconds", "3", "--seed", "5", "--report", output]
        done = subprocess.run(
            [sys.executable, "-m", "lts_ray.cli.main", "simulate", *map(str, words)],
            env=os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
        left.append((done.stdout, (output / "run.json").read_bytes()))
    assert left[0] == left[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trace", "sunday"], "trace sunday does not exist"),
        (["--router", "best"], "unknown router 'best'; known: budget, "),
        (["--policy", "best"], "unknown policy 'best'; known: deadline, "),
        (["--autoscaling", "best"], "unknown autoscaling 'best'; known: "),
        (["--load", "0"], "settings.load must be above 0; got 0"),
        (["--load", "nan"], "settings.load must be "),
        (["--load", "1", "--rate", "1"], "a rate and a load say two things"),
        (["--seconds", "-1"], "settings.seconds must be above 0; got -1"),
        (["--rate", "1e9"], "a load of 3e+11 requests is above the 10,000,000"),
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
