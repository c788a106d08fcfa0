from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.common.machine import Machine
from benchmarks.common.speculation_result import DraftSetting, DraftSpeed, SpeculationResult
from benchmarks.common.speculation_text import SpeculationText, choose_text
from benchmarks.speculation import compare_speculation, speculation
from lts_ray.decoding.draft_length import ADAPTIVE, DraftCosts
from lts_ray.decoding.speculative import Statistics, speculate
from lts_ray.errors import LtsRayError
from lts_ray.evaluation import text_quality as evaluate
from lts_ray.models.matformer.matformer import MatFormer
from tests.conftest import make_model
from tests.decoding.model_clock import ModelClock


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return make_model(seed=3, vocab_size=40).double()


@pytest.fixture
def text() -> SpeculationText:
    blocks = torch.randint(40, (9, 33), generator=torch.Generator().manual_seed(0))
    return choose_text(blocks, prompts=3, prompt_tokens=8)


def test_speed_is_over_the_verifier_alone_and_the_costs_predict_it(
    model: MatFormer, text: SpeculationText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that counts forwards the prediction is exact where the drafter reads no prompt in the time."""
    clock, told = ModelClock(monkeypatch), []
    found = compare_speculation(
        model,
        text,
        drafts=["S", "L"],
        lengths=[2, ADAPTIVE],
        tokens=17,
        repeats=1,
        clock=clock,
        progress=lambda done, total: told.append((done, total)),
    )
    assert [row.setting for row in found.rows] == [
        DraftSetting(draft=draft, shared=shared, length=length)
        for draft in ("S", "L")
        for shared in (True, False)
        for length in (2, ADAPTIVE)
    ]
    assert found.token_ms == pytest.approx(2000)
    assert told[-1] == (told[-1][1], told[-1][1])
    for row in found.rows:
        assert row.same == 3
        assert row.statistics.tokens == 3 * 16
        if row.setting.shared:
            assert row.speed == pytest.approx(row.predicted_speed)
        elif row.statistics.drafted:
            assert row.speed < row.predicted_speed
    expected = [
        list(
            speculate(
                model,
                prompt,
                draft=model.config.trained["S"],
                submodel=model.config.universal,
                max_tokens=17,
                length=2,
            )
        )
        for prompt in text.prompts.tolist()
    ]
    assert found.rows[0].statistics == Statistics.of(expected)


def result(costs: DraftCosts, speeds: dict[tuple[bool, int], float]) -> SpeculationResult:
    statistics = Statistics(tokens=100, verifier_steps=50, drafted=80, accepted=60, fallen=20)
    return SpeculationResult(
        verifier="XL",
        asked={},
        token_ms=1.0,
        costs={"S": costs},
        rows=tuple(
            DraftSpeed(
                setting=DraftSetting(draft="S", shared=shared, length=length),
                statistics=statistics,
                speed=speed,
                predicted_speed=speed,
                same=1,
            )
            for (shared, length), speed in speeds.items()
        ),
        machine=Machine(cpu="some cpu", cores=2, gpu=None, torch="2.0", commit=None),
    )


CHEAP, DEAR, FLAT = (
    DraftCosts(draft=0.2, verify=(1.0, 1.1, 1.2)),
    DraftCosts(draft=0.9, verify=(1.0, 1.2, 1.4)),
    DraftCosts(draft=0.7, verify=(1.0, 1.1, 1.2)),
)


@pytest.mark.parametrize(
    ("costs", "speed", "expected"),
    [
        (CHEAP, 1.3, "S gains: 1.30x with length 2 and a shared cache"),
        (DEAR, 0.9, "S cannot gain: a drafted token costs 0.90 of a step of XL"),
        (FLAT, 0.9, r"so 0\.8\d of its tokens have to stand, and at most 0.75 do"),
        (CHEAP, 1.01, "S does not gain"),
    ],
    ids=["gains", "cannot", "too few stand", "no more than the clock's noise"],
)
def test_the_verdict_says_whether_a_draft_gains_and_why(costs: DraftCosts, speed: float, expected: str) -> None:
    found = result(costs, {(True, 1): speed - 0.2, (True, 2): speed, (False, 2): speed - 0.1})
    verdict = found.verdict("S")
    assert re.search(expected, verdict), verdict


def test_what_sharing_gains_is_taken_length_by_length() -> None:
    speeds = {(True, 1): 1.2, (False, 1): 1.0, (True, 2): 1.1, (False, 2): 1.0, (True, 4): 9.0}
    assert result(CHEAP, speeds).sharing_gain("S") == pytest.approx(1.15)
    assert result(CHEAP, {(True, 1): 1.2}).sharing_gain("S") is None


def test_the_verb_prints_tables_and_a_line_of_json_last(
    model_dir: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With longer prompts and responses than the sequences that `evaluate` takes unless told otherwise."""
    monkeypatch.setattr(evaluate, "LENGTH", 8)
    app = typer.Typer()
    app.command()(speculation)
    options = "--draft S --length 2 --length adaptive --prompts 2 --prompt-tokens 8 --tokens 6 --repeats 1 --doubt 0.1"
    arguments = [
        "--model",
        str(model_dir),
        "--text",
        str(texts / "*.txt"),
        "--draft-vocabulary",
        "20",
        *options.split(),
    ]
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout.splitlines()[-1])
    assert [(row["shared"], row["length"]) for row in record["rows"]] == [
        (True, 2),
        (True, ADAPTIVE),
        (False, 2),
        (False, ADAPTIVE),
    ]
    assert len(record["costs"]["S"]["verify"]) == 7
    assert 1 <= record["draft_vocabulary"] <= 20
    assert "Costs, in steps of XL" in found.stdout


def test_a_length_that_is_none_is_refused(model_dir: Path) -> None:
    app = typer.Typer()
    app.command()(speculation)
    with pytest.raises(LtsRayError, match="got 'many'"):
        CliRunner().invoke(app, ["--length", "many"], catch_exceptions=False)


def test_a_draft_wider_than_the_verifier_is_refused_before_anything_is_timed(
    model: MatFormer, text: SpeculationText
) -> None:
    told: list[tuple[int, int]] = []
    with pytest.raises(LtsRayError, match="64,64,64 is wider than its verifier 32,32,32"):
        compare_speculation(model, text, drafts=["S", "XL"], verifier="L", progress=lambda *done: told.append(done))
    assert told == []
