"""`lts-ray measure --step-costs`: what a file of it says, and that the simulator takes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lts_ray.cli import main as cli
from lts_ray.errors import LtsRayError
from lts_ray.precision import READS
from lts_ray.runtime.node_calibration import read_calibration
from lts_ray.runtime.step_costs import Group, StepCosts
from serve import calibrate_command, simulate_command
from serve.calibrate_command import TimedStep, run, served_costs

FLAT = StepCosts(grid=(1, 1000), base=(1.0, 1.0), neuron=(0.1, 0.1), head=(0.0, 0.0), attended=0.0)


def test_what_serving_adds_is_fitted_to_all_steps_and_stalls_count_little() -> None:
    """Steps 1.5 times as long, those that read prompts twice, half a millisecond more; one in fifty stalls."""
    rng = np.random.default_rng(0)
    steps: list[TimedStep] = []
    for number in range(2000):
        quiet_ms, prompt = float(rng.uniform(1, 30)), bool(rng.uniform() < 0.3)
        took_ms = (2.0 if prompt else 1.5) * quiet_ms + 0.5
        steps.append((quiet_ms, prompt, took_ms * (20 if number % 50 == 0 else 1) * float(np.exp(0.05 * rng.normal()))))
    costs, ratios, prompt_ratios = served_costs(FLAT, [*steps, (0.0, False, 3.0)])
    assert costs.slowdown == pytest.approx(1.5, rel=0.05)
    assert costs.slowdown * costs.prompt_slowdown == pytest.approx(2.0, rel=0.05)
    assert costs.overhead_ms == pytest.approx(0.5, abs=0.15)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.05)
    assert np.median(prompt_ratios) == pytest.approx(1.0, abs=0.05)
    assert min(max(ratios), max(prompt_ratios)) > 15
    for of, its_ratios in ((False, ratios), (True, prompt_ratios)):
        served_ms = [costs.served_ms(quiet_ms, reads_prompt=of) for quiet_ms, prompt, _ in steps if prompt == of]
        took = [took_ms for _, prompt, took_ms in steps if prompt == of]
        assert np.multiply(served_ms, its_ratios) == pytest.approx(took, rel=1e-3)


@pytest.mark.parametrize("prompt", [False, True])
def test_steps_of_one_kind_say_nothing_of_the_other(prompt: bool) -> None:
    costs, *_ = served_costs(FLAT, [(10.0, prompt, 20.0), (20.0, prompt, 40.0)])
    assert costs.step_ms([Group(0, 1, 0, 1)]) == pytest.approx(2 * FLAT.step_ms([Group(0, 1, 0, 1)]))
    assert costs.prompt_slowdown == pytest.approx(1)


def test_a_node_is_measured_and_simulated(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(calibrate_command, "IMPORTED", "nothing")
    with pytest.raises(
        LtsRayError, match="--device is cuda, but torch finds no CUDA GPU"
    ):  # before anything takes time
        run(str(tmp_path / "costs.json"), str(model_dir), "1", "cuda", "", "")
    for name, value in (("CALIBRATION_S", 0.2), ("REHEARSAL_S", 0.2), ("RECORDING_S", 1.0), ("IMPORTED", "json")):
        monkeypatch.setattr(calibrate_command, name, value)
    file = tmp_path / "costs.json"
    run(str(file), str(model_dir), "1", "cpu", "float32", "float32,int4")
    assert f"{file}: " in capsys.readouterr().out
    found = read_calibration(file)
    assert (found.threads, found.device) == (1, "cpu")
    assert min(len(found.ratios), len(found.prompt_ratios)) > 1
    assert min(found.process_s, found.calibration_s) > 0
    assert "cores" in found.machine
    assert found.precisions == ("float32", "int4")
    assert found.costs.planes == READS["float32"] | READS["int4"]
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("kinds: [{name: here, simulated: {step_costs: costs.json}}]")
    words = ["-f", fleet, "-m", model_dir, "--rate", 5, "--seconds", 2, "--json"]
    with pytest.raises(SystemExit) as end:
        simulate_command.main(list(map(str, words)))
    assert not end.value.code
    assert json.loads(capsys.readouterr().out)["requests"] > 0


def test_the_verb_hands_over(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, words: became.append(words) or sys.exit(0))
    words = ["measure", "-m", str(model_dir), "--threads", "2", "--step-costs", str(tmp_path / "new" / "costs.json")]
    monkeypatch.setattr(sys, "argv", ["lts-ray", *words])
    with pytest.raises(SystemExit):
        cli.main()
    (given,) = became
    assert given[1:4] == ["-P", "-m", "serve.calibrate_command"]
    assert given[4:] == [str(tmp_path / "new" / "costs.json"), str(model_dir), "2", "auto", "", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "have schema None, not 1: `lts-ray measure --step-costs FILE` writes them"),
        ("[]", "is not a JSON object"),
        ('{"schema": 1, "model": "a"}', "needs costs"),
        ('{"schema": 1, "model": "a", "costs": {"grid": [2]}}', ""),
        ('{"schema": 1, "model": "", "costs": {}}', ""),
    ],
)
def test_a_file_of_another_kind_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(LtsRayError) as refused:
        read_calibration(tmp_path / "costs.json")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
