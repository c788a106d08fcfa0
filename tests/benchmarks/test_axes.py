"""The axes bench: trainings of equal compute, points that are what they say, and runs that are not done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.axes import ALL, FFN, HEADS, SCHEMA, AxesResult, axes, compare_axes, runs_of_equal_compute
from benchmarks.common.scale import run_flops
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.training.run_settings import ModelSettings, RunSettings
from tests.conftest import make_text

MODEL = ModelSettings(vocab_size=300, d_model=32, n_layer=2, n_head=4, n_kv_head=4, d_ff=64, context_length=200)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    for seed in range(60):
        (folder / f"{seed}.txt").write_text(make_text(seed=seed, words=500), encoding="utf-8")
    return str(folder / "*.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("axes")


@pytest.fixture(scope="module")
def result(corpus: str, folder: Path) -> AxesResult:
    return compare_axes(runs(corpus), folder, rounds=2)


def runs(corpus: str) -> dict[str, RunSettings]:
    return runs_of_equal_compute(steps=3, seed=0, threads=1, corpus=corpus, model=MODEL)


def test_all_trainings_cost_the_same_within_half_a_step(corpus: str) -> None:
    steps = {name: run.training.steps for name, run in runs(corpus).items()}
    spent = {name: run_flops(run, 300) for name, run in runs(corpus).items()}
    assert steps[FFN] < steps[HEADS] < steps[ALL]
    for name, flops in spent.items():
        assert abs(flops - spent[FFN]) <= 0.5 * flops / steps[name]


def test_every_model_has_its_granularities_and_the_mixes_between(result: AxesResult, folder: Path) -> None:
    for model in (FFN, HEADS, ALL):
        points = result.of(model)
        assert [each.name for each in points if each.name] == ["S", "M", "L", "XL"]
        assert len(points) == 4 + 3 * (MODEL.n_layer - 1)
        config = load_checkpoint(folder / model / "model").model.config
        for point in points:
            assert point.decoder_params == config.decoder_params(point.submodel)
            assert set(point.latency_ms) == {"prefill", "decode"}
            assert min(point.latency_ms.values()) > 0
    smallest = result.of(ALL)[0].submodel
    assert smallest.heads == (1, 1)
    assert smallest.d_model == 16


def test_the_best_within_a_time_is_no_slower_and_none_other_is_better(result: AxesResult) -> None:
    for point in result.points:
        best = result.best_within(point.model, "prefill", point.latency_ms["prefill"])
        assert best is not None
        assert best.loss <= point.loss
        assert best.latency_ms["prefill"] <= point.latency_ms["prefill"]
    assert result.best_within(FFN, "decode", 0.0) is None


def test_a_second_call_trains_nothing_and_finds_the_same_losses(
    result: AxesResult, corpus: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = compare_axes(runs(corpus), folder, rounds=2)
    assert capsys.readouterr().out == ""
    assert [each.loss for each in again.points] == [each.loss for each in result.points]


def test_the_page_and_the_file_have_all_points(
    result: AxesResult, corpus: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.axes.runs_of_equal_compute", lambda **_: runs(corpus))
    axes(output=folder, rounds=2)
    page = (folder / "axes.html").read_text(encoding="utf-8")
    slowest = len(result.of(FFN))
    assert page.count("<tr>") == 3 + len(result.points) + 2 * slowest
    assert 'id="axes"' in page
    record = read_json(folder / "axes.json", what="result")
    assert (record["schema"], record["steps"]) == (SCHEMA, dict(result.steps))
    assert [point["loss"] for point in record["points"]] == [point.loss for point in result.points]
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: list(points) for name, points in summary.items()} == {
        name: ["S", "M", "L", "XL"] for name in (FFN, HEADS, ALL)
    }


def test_a_corpus_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="no corpus and no file matches"):
        axes(output=tmp_path / "x", corpus="/nowhere/*.txt")
