from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.policies import policies
from benchmarks.serving_overhead import serving_overhead
from benchmarks.soak import soak
from lts_ray.errors import LtsRayError
from lts_ray.record import record_json
from lts_ray.runtime.node_calibration import NodeCalibration
from tests.benchmarks.load.loads import COSTS, local_model
from tests.serve.conftest import Server

app = typer.Typer()
for verb in (policies, soak, serving_overhead):
    app.command()(verb)


@pytest.fixture
def costs(model_dir: Path, tmp_path: Path) -> Path:
    """A file of the tests' step costs, as `lts-ray measure --step-costs` writes it."""
    NodeCalibration(model=local_model(model_dir).fingerprint, costs=COSTS).write(tmp_path / "costs.json")
    return tmp_path / "costs.json"


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    return result.exit_code, result.stdout


def test_policies_prints_tables_and_json_and_leaves_a_page(model_dir: Path, tmp_path: Path, costs: Path) -> None:
    output = tmp_path / "out"
    code, text = invoke(
        "policies", "--model", model_dir, "--costs", costs, "--on", "simulated", "--output", output, "--context", 48,
        "-p", "deadline", "-p", "fixed-universal", "-t", "poisson", "-l", 1.5, "--seconds", 1, "--seeds", 2,
        "--threads", 1,
    )  # fmt: skip
    assert code == 0
    assert "simulated, 1.5× the universal model's saturation" in text
    found = json.loads(text.splitlines()[-1])
    assert [row["policy"] for row in found["rows"]] == ["deadline", "fixed-universal"]
    assert found["costs"] == record_json(COSTS)
    saved = json.loads((output / "policies.json").read_text(encoding="utf-8"))
    assert saved["rows"] == found["rows"]
    assert {row["trace"] for row in saved["rows_by_trace"]} == {"poisson"}
    assert "policies-simulated" in (output / "policies.html").read_text(encoding="utf-8")


def test_soak_prints_what_became_of_its_requests(model_dir: Path, costs: Path) -> None:
    code, text = invoke(
        "soak", "--model", model_dir, "--costs", costs, "--minutes", 0.01, "--context", 48, "--threads", 1
    )
    assert code == 0
    found = json.loads(text.splitlines()[-1])
    assert (found["failed"], found["load"]) == (0, 0.8)
    assert f"{found['requests']} requests in 0.0 minutes" in text


def test_serving_overhead_says_what_http_adds(model_dir: Path, costs: Path, server: Server) -> None:
    code, text = invoke(
        "serving-overhead", "--url", server.url, "--model", model_dir, "--costs", costs, "--rounds", 1, "--singles", 1,
        "--streams", 2, "--prompt-tokens", 4, "--tokens", 4, "--threads", 1,
    )  # fmt: skip
    assert code == 0
    assert "the first token comes" in text
    assert json.loads(text.splitlines()[-1])["streams"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("policies", "--policy", "fast"), "unknown policy 'fast'"),
        (("policies", "--trace", "sunday"), "unknown trace 'sunday'"),
        (("policies", "--tight", "9"), "budgets must be growing multiples"),
        (("policies", "--slots", "300"), "chunk_tokens must be at least the 300 requests .*; got 256"),
        (("policies", "--costs", "nowhere.json"), "nowhere.json does not exist"),
        (("policies", "--target", "edge"), "--target edge needs --frontier"),
        (("policies", "--output", "FILE"), "is a file, not a folder: choose another --output"),
        (("soak", "--policy", "fast"), "unknown policy 'fast'"),
        (("soak", "--url", "http://127.0.0.1:9"), "give the server's process with --pid"),
        (("serving-overhead", "--url", "http://127.0.0.1:9", "--tokens", "16"), "no endpoint answers at http"),
        (("serving-overhead", "--url", "http://127.0.0.1:9", "--tokens", "600"), "do not fit the context of 64"),
    ],
)
def test_bad_arguments_are_told_in_one_line(
    arguments: tuple[str, ...], message: str, model_dir: Path, tmp_path: Path, costs: Path
) -> None:
    """As an LtsRayError, which the command line prints and exits with 2."""
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    given = [str(file) if each == "FILE" else each for each in arguments]
    known = [] if "--costs" in given else ["--costs", str(costs)]
    if "--output" not in given and given[0] == "policies":
        known += ["--output", str(tmp_path / "out")]
    with pytest.raises(LtsRayError, match=message) as caught:
        invoke(*given, "--model", model_dir, "--threads", 1, *known)
    assert "\n" not in str(caught.value)
