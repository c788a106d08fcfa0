from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from benchmarks.confidence import by_one, loss_at, run
from benchmarks.verbs.bench_decoding import confidence
from lts_ray.errors import LtsRayError
from lts_ray.evaluation import text_quality as evaluate
from lts_ray.models.matformer.matformer import MatFormer
from tests.conftest import make_model
from tests.decoding.model_clock import ModelClock


@pytest.fixture(scope="module")
def model() -> MatFormer:
    model = make_model(seed=3, vocab_size=40).double()
    with torch.no_grad():
        model.norm.weight.mul_(4)  # sure of some tokens
    return model


@pytest.fixture
def blocks() -> Tensor:
    return torch.randint(40, (8, 25), generator=torch.Generator().manual_seed(0))


def measured(model: MatFormer, blocks: Tensor, **options: Any) -> Any:
    config = model.config
    options = {
        "small": ["S"],
        "shares": [0.0, 0.4, 1.0],
        "fixed": [config.trained["S"], config.trained["L"]],
        "prompt_tokens": 4,
        "tokens": 21,
        "responses": 2,
        "repeats": 1,
        **options,
    }
    return run(model, blocks[4:], blocks[:4], **options)


def test_a_pairs_time_is_the_small_ones_and_the_universal_ones_for_its_share(
    model: MatFormer, blocks: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that counts forwards: 1.125 s for the small one, 2 s more where the universal one reads again."""
    told: list[tuple[str, int, int]] = []
    found = measured(
        model, blocks, clock=ModelClock(monkeypatch), progress=lambda *stage_done_total: told.append(stage_done_total)
    )
    assert [each.token_ms for each in found.fixed] == pytest.approx([1125, 1500, 2000])
    assert [each.share for each in found.pairs] == [0.0, 0.4, 1.0]
    for each in found.pairs:
        assert each.token_ms == pytest.approx(1125 + 2000 * each.quality.universal_share)
        assert each.quality.universal_share == pytest.approx(each.share, abs=0.15)
    assert {stage for stage, _, _ in told} == {"calibrating", "reading", "decoding"}
    assert told[-1][1] == told[-1][2]


def test_without_universal_tokens_a_pair_is_its_small_one_and_with_nothing_else_the_universal_one(
    model: MatFormer, blocks: Tensor
) -> None:
    """But for each block's first token, which the universal model reads."""
    found = measured(model, blocks)
    small, _, universal = (each.quality for each in found.fixed)
    assert found.pairs[-1].quality.loss == pytest.approx(universal.loss, rel=1e-5)
    assert found.pairs[-1].quality.agreement == universal.agreement == 1
    assert found.pairs[0].quality.loss == pytest.approx(small.loss, rel=0.02)
    assert found.fixed[0].quality.loss != found.fixed[1].quality.loss


def test_a_submodel_alone_is_judged_at_the_places_that_routing_counts(model: MatFormer, blocks: Tensor) -> None:
    small = model.config.trained["S"]
    (found,) = by_one(model, [small], blocks)
    with torch.inference_mode():
        logits = model(blocks[:, :-1], submodel=small)[:, 1:]
        reference = model(blocks[:, :-1], submodel=model.config.universal)[:, 1:]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 2:].flatten())
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert found.agreement == pytest.approx(float((logits.argmax(-1) == reference.argmax(-1)).double().mean()))
    assert found.tokens == 8 * 23


def test_fixed_submodels_loss_is_a_line_through_those_that_are_of_use() -> None:
    curve = [(4.0, 2.0), (1.0, 4.0), (2.0, 3.0), (3.0, 3.5)]  # the last is slower than the one before and worse
    assert loss_at(curve, 1.5) == 3.5
    assert loss_at(curve, 3.0) == 2.5
    assert loss_at(curve, 9.0) == 2.0
    assert loss_at(curve, 0.5) is None


def test_what_does_not_fit_is_refused(model: MatFormer, blocks: Tensor) -> None:
    with pytest.raises(LtsRayError, match="5 responses"):
        measured(model, blocks, responses=5)


def test_the_verb_prints_tables_and_a_line_of_json_last(
    model_dir: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With longer sequences than `evaluate` takes unless told otherwise."""
    monkeypatch.setattr(evaluate, "LENGTH", 8)
    app = typer.Typer()
    app.command()(confidence)
    options = (
        "--small S --share 0.3 --measure entropy --blocks 3 --calibration-blocks 2 --block-tokens 16 "
        "--responses 2 --prompt-tokens 4 --tokens 5 --repeats 1"
    )
    arguments = ["--model", str(model_dir), "--text", str(texts / "*.txt"), *options.split()]
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout.splitlines()[-1])
    assert (record["measure"], record["tokens"]) == ("entropy", 3 * 15)
    assert [each["small"] for each in record["pairs"]] == ["S"]
    assert record["fixed"][-1]["universal_share"] == 1.0
    with pytest.raises(LtsRayError, match="ask for fewer"):
        CliRunner().invoke(app, [*arguments, "--blocks", "900"], catch_exceptions=False)
