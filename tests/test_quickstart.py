"""The quickstart's own decisions: budgets that mean what they say, and no stage done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from rich.console import Console

from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.pretrained import DEFAULT_MODEL
from lts_ray.quickstart import ask, stages
from lts_ray.quickstart.stages import QuickstartFolder
from tests.serve.conftest import running_app

NARROWEST_MS, UNIVERSAL_MS, SMALLEST_MS = 10.0, 40.0, 20.0
"""What the fake endpoint says that a response takes, alone as in company."""


def fake_endpoint() -> FastAPI:
    """Answers as ours does, from numbers; a group only when all of it has come, so never if it comes one by one."""
    app, group = FastAPI(), asyncio.Barrier(ask.AT_ONCE - 1)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        sizes = {"fake": {"decoder_params": 16}, "fake:S": {"decoder_params": 12, "precision": "int8"}}
        common = {"object": "model", "created": 0, "owned_by": "lts-ray"}
        return {"object": "list", "data": [common | {"id": id, "lts": size} for id, size in sizes.items()]}

    @app.post("/v1/completions")
    async def completions(request: Request) -> JSONResponse:
        body = await request.json()
        budget_ms = body.get("latency_budget_ms")
        if request.headers.get("x-slo-strict") == "true" and budget_ms < SMALLEST_MS:
            error = {"message": "no", "smallest_feasible_budget_ms": {"e2e": SMALLEST_MS}}
            return JSONResponse({"error": error}, status_code=429)
        if body["prompt"] != ask.PROMPTS[0]:
            await group.wait()
        alone_ms = NARROWEST_MS if body["model"] == "fake:S" else UNIVERSAL_MS
        timing = {"ttft": 1.0, "tpot": 1.0, "e2e": alone_ms}
        lts = {"tokens": {"XL": 48}, "predicted_ms": timing, "measured_ms": timing, "budget_met": budget_ms and True}
        choice = {"index": 0, "text": " is law", "finish_reason": "length", "logprobs": None}
        common = {"id": "1", "object": "text_completion", "created": 0, "model": body["model"]}
        return JSONResponse(common | {"choices": [choice], "lts": lts})

    return app


def test_only_budgets_that_can_be_kept_are_asked_for_and_one_that_cannot_is_shown_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_app(fake_endpoint()) as server:
        answers = ask.ask_all(server.url)
    asked = [(answer["budget"], answer["budget_ms"], answer["at_once"]) for answer in answers]
    alone = [("none", None, 1), ("generous", 160, 1), ("medium", 25, 1), ("tight", 25, 1)]
    assert asked == [*alone, *[("generous", 160, 8)] * 8, *[("medium", 25, 8)] * 8, ("too tight", 10, 1)]
    assert answers[-1]["smallest_ms"] == SMALLEST_MS
    assert "lts" not in answers[-1]
    ask.print_answers(answers)
    printed = " ".join(capsys.readouterr().out.split())
    assert "tight 25 ms: 1.25 times the smallest that the endpoint promises to keep now, 20.0 ms" in printed
    assert "none: try 20.0 ms" in printed
    assert "refused" in printed
    assert "8 of 8" in printed
    assert "19 of 19 budgets that can be kept were" in printed


def test_the_medium_budget_is_never_close_to_what_the_narrowest_takes_with_eight_at_once() -> None:
    needs = ask.Needs(universal_alone=40, universal_together=90, narrowest_together=80, smallest=7.5)
    assert {name: ms for name, (ms, _) in needs.budgets().items()} == {
        "generous": 180, "medium": 120, "tight": 10, "too tight": 3,
    }  # fmt: skip


def test_a_finished_quickstart_runs_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = QuickstartFolder(tmp_path)
    folder.search.mkdir(parents=True)
    folder.report.write_text("report")
    timing = {"ttft": 1.0, "tpot": 1.0, "e2e": 5.0}
    lts = {"tokens": {"XL": 48}, "predicted_ms": timing, "measured_ms": timing, "budget_met": True}
    asked = {"budget": "tight", "budget_ms": 9.0, "why": "little", "at_once": 1, "client_ms": 7.0}
    answer = asked | {"lts": lts, "prompt": "The law", "text": " is law"}
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
