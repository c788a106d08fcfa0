"""The quickstart's own decisions: budgets that mean what they say, and no stage done twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rich.console import Console

from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.quickstart import ask, stages
from lts_ray.quickstart.stages import QuickstartFolder


def test_the_narrowest_keeps_the_medium_budget_with_eight_at_once_and_the_tight_one_only_alone() -> None:
    needs = ask.Needs(universal_alone=40, universal_together=90, narrowest_alone=10, narrowest_together=22.5)
    assert needs.budgets_ms() == {"generous": 160, "medium": 45, "tight": 13}


def test_a_finished_quickstart_runs_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = QuickstartFolder(tmp_path)
    folder.search.mkdir(parents=True)
    folder.report.write_text("report")
    timing = {"ttft": 1.0, "tpot": 1.0, "e2e": 5.0}
    lts = {"tokens": {"XL": 48}, "predicted_ms": timing, "measured_ms": timing, "budget_met": True}
    answer = {"budget": "tight", "budget_ms": 9.0, "at_once": 1, "lts": lts, "prompt": "The law", "text": " is law"}
    write_json(folder.answers, {"answers": [answer]})

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(stages.subprocess, "Popen", fail)
    monkeypatch.setattr(stages, "endpoint", fail)
    stages.run_quickstart(tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("done already") == 2
    assert "XL (48)" in printed
    assert "1 of 1" in printed
    assert "The law is law" in printed


def test_a_failed_stage_ends_in_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="stopped in `lts-ray evaluate`"):
        stages.run_command(["evaluate", "--model", tmp_path / "nowhere"], Console(quiet=True), done=False)


def test_the_endpoint_it_starts_is_ours_with_its_model_and_frontier(tmp_path: Path) -> None:
    folder = QuickstartFolder(tmp_path)
    application = yaml.safe_load(yaml.safe_dump(stages.serve_yaml(folder)))["applications"][0]
    assert application["import_path"] == "serve.app:build"
    assert application["args"]["model"] == str(DEFAULT_MODEL)
    assert application["args"]["frontier"] == str(folder.frontier)
