"""The bench on a model so small that it learns little: what is compared with what, and what is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common.held_out_text import held_out
from benchmarks.common.scale import UNIVERSAL, baseline
from benchmarks.nested import nested_scales
from benchmarks.nested.nested_scales import INDEPENDENT, SAMPLED, SAMPLED_EQUAL, train_scale
from benchmarks.nested_training import ScaleResult, compare_nested, nested_training
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.consistency import Predictor, consistency
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.files import read_json, read_json_lines
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training.run_folder import RunFolder
from tests.benchmarks.nested_runs import tiny_scale, train_two_and_a_half
from tests.conftest import make_text
from tests.forked import forked

NAMES = ("S", "M", "L", "XL")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 short documents, three of which are held out: one to choose on and two to report on."""
    folder = tmp_path_factory.mktemp("corpus")
    for seed in range(60):
        (folder / f"{seed}.txt").write_text(make_text(seed=seed, words=60), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bench(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ScaleResult]]:
    """A whole bench with all objectives, and its folder."""
    folder = tmp_path_factory.mktemp("bench")
    return folder, compare_nested([tiny_scale(corpus)], folder, objectives=True, evaluations=4, rounds=2)


def report_text(folder: Path) -> torch.Tensor:
    data = folder / "small" / "data"
    return held_out(np.load(data / "validation.npy"), eos_id=load_tokenizer(data).eos_id, length=16).report


def test_each_granularity_is_held_against_a_plain_model_of_its_size(bench: tuple[Path, list[ScaleResult]]) -> None:
    folder, result = bench
    quality, text = result[0].quality, report_text(folder)
    universal = load_checkpoint(folder / "small" / UNIVERSAL / "model").model
    assert [twins.name for twins in quality.twins] == list(NAMES)
    for twins in quality.twins:
        plain = load_checkpoint(folder / "small" / baseline(twins.name) / "model").model
        own = universal.config.trained[twins.name]
        assert plain.config.widths == own.widths == twins.universal.submodel.widths
        assert twins.universal.decoder_params == twins.baseline.decoder_params == plain.config.decoder_params()
        expected = (validation_loss(universal, text, own), validation_loss(plain, text, plain.config.universal))
        assert (twins.universal.loss, twins.baseline.loss) == pytest.approx(expected)
        assert twins.relative_difference == pytest.approx(expected[0] / expected[1] - 1)
    assert quality.tokens == text[:, 1:].numel()


def test_plain_models_are_as_consistent_as_with_the_largest_plain_one(
    bench: tuple[Path, list[ScaleResult]],
) -> None:
    folder, result = bench
    small, largest = (load_checkpoint(folder / "small" / baseline(name) / "model").model for name in ("S", "XL"))
    (expected,) = consistency(
        Predictor(largest, largest.config.universal),
        [Predictor(small, small.config.universal)],
        report_text(folder),
    )
    alone = [each.baseline for each in result[0].quality.twins]
    assert (alone[0].agreement, alone[0].kl) == pytest.approx((expected.agreement, expected.kl))
    assert (alone[-1].agreement, alone[-1].kl) == (1.0, 0.0)
    assert alone[0].kl > 0


def test_all_runs_but_those_of_other_length_see_the_same_batches_and_rates(
    bench: tuple[Path, list[ScaleResult]],
) -> None:
    folder, _ = bench
    rates = {}
    for name in (UNIVERSAL, *(baseline(each) for each in NAMES), "large-first", SAMPLED, INDEPENDENT):
        records = read_json_lines(RunFolder(folder / "small" / name).metrics, what="metrics")
        rates[name] = [each["learning_rate"] for each in records if "loss" in each]
        settings = read_json(folder / "small" / name / "settings.json", what="settings")
        assert (settings["training"]["seed"], settings["training"]["batch_size"]) == (0, 4)
    assert len(rates[UNIVERSAL]) == 4
    assert all(each == rates[UNIVERSAL] for each in rates.values())


def test_mix_n_match_is_held_against_the_lines_between_the_granularities(bench: tuple[Path, list[ScaleResult]]) -> None:
    quality = bench[1][0].quality
    trained = {each.universal.submodel for each in quality.twins}
    assert [each.submodel.widths for each in quality.between] == [(4, 8), (8, 16), (16, 32)]
    assert len(quality.least_slope) == 7
    for twins in quality.twins:
        assert quality.line(twins.universal.decoder_params) == twins.universal.loss
    first, second, middle = quality.twins[0].universal, quality.twins[1].universal, quality.between[0]
    assert middle.submodel not in trained
    assert quality.line(middle.decoder_params) == pytest.approx((first.loss + second.loss) / 2)
    assert quality.above_line(middle) == pytest.approx(middle.loss - (first.loss + second.loss) / 2)


def test_choices_of_one_size_are_of_one_size(bench: tuple[Path, list[ScaleResult]]) -> None:
    size, *_ = sizes = bench[1][0].quality.equal_sizes
    assert [each.least_slope.submodel.widths for each in sizes] == [(4, 8), (8, 16), (16, 32)]
    assert size.count == 2
    assert {each.submodel.widths for each in size.drawn} == {(4, 8), (8, 4)}
    for choice in sizes:
        assert len({quality.decoder_params for quality in choice.chosen}) == 1


def test_objectives_are_compared_at_equal_steps_and_at_equal_compute(bench: tuple[Path, list[ScaleResult]]) -> None:
    folder, result = bench
    joint, *others = result[0].objectives
    named = {each.name: each for each in others}
    assert (joint.name, joint.relative_flops, joint.steps) == (UNIVERSAL, 1.0, 4)
    assert [each.loss for each in joint.by_granularity.values()] == pytest.approx(
        [each.universal.loss for each in result[0].quality.twins]
    )
    assert named["large-first"].relative_flops == named[INDEPENDENT].relative_flops == 1.0
    assert named[SAMPLED].steps == 4
    assert named[SAMPLED].relative_flops == pytest.approx(0.25)
    assert named[SAMPLED_EQUAL].steps == 16
    assert named[SAMPLED_EQUAL].relative_flops == pytest.approx(1.0)
    own = load_checkpoint(folder / "small" / INDEPENDENT / "model" / "M").model
    assert named[INDEPENDENT].by_granularity["M"].loss == pytest.approx(
        validation_loss(own, report_text(folder), own.config.universal)
    )


def test_a_finished_run_leaves_its_checkpoint_and_no_snapshots(bench: tuple[Path, list[ScaleResult]]) -> None:
    folder, _ = bench
    assert (folder / "small" / UNIVERSAL / "model" / "model.safetensors").exists()
    assert not list(folder.rglob("snapshots"))


def test_the_verb_reuses_finished_trainings_and_writes_its_files(
    bench: tuple[Path, list[ScaleResult]],
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, result = bench
    monkeypatch.setattr(nested_scales, "SCALES", {"small": tiny_scale(corpus)})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    nested_training(
        output=folder,
        scale=["small"],
        objectives=True,
        evaluations=4,
        rounds=2,
        corpus=str(corpus / "*.txt"),
        threads=1,
    )
    printed = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")} == before
    last = json.loads(printed.splitlines()[-1])["small"]
    assert last["relative_difference"].keys() == set(NAMES)
    assert "of the four plain steps' time" in printed
    written = read_json(folder / "matformer.json", what="result")
    assert (written["schema"], written["evaluations"]) == (1, 4)
    (scale,) = written["scales"]
    mine = result[0].to_json()
    for key in ("quality", "objectives"):
        assert scale[key] == json.loads(json.dumps(mine[key]))
    assert scale["scale"]["training"]["steps"] == 4
    assert scale["time_ratio"] > 0
    page = (folder / "matformer.html").read_text(encoding="utf-8")
    assert 'id="matformer-small"' in page
    assert "<script src=" not in page


def final_losses(folder: Path) -> dict[str, object]:
    records = {
        path.parent.name: read_json_lines(path, what="metrics") for path in sorted(folder.rglob("metrics.jsonl"))
    }
    return {name: lines[-1] for name, lines in records.items() if lines and lines[-1].get("final")}


def test_trainings_killed_in_the_middle_go_on_to_the_same_models(
    bench: tuple[Path, list[ScaleResult]], corpus: Path, tmp_path: Path
) -> None:
    """SIGKILL in the third run, then the same call: what was finished stays as it was, byte for byte."""
    process = forked(train_two_and_a_half, corpus, tmp_path / "small")
    third = RunFolder(tmp_path / "small" / baseline("M"))
    while process.is_alive():
        if any(each["step"] >= 2 for each in read_json_lines(third.metrics, what="metrics")):
            break
        time.sleep(0.01)
    process.kill()
    process.join()
    assert set(final_losses(tmp_path)) == {UNIVERSAL, baseline("S")}
    first = (tmp_path / "small" / UNIVERSAL / "metrics.jsonl").stat()
    train_scale(tiny_scale(corpus), tmp_path / "small")
    found, whole = final_losses(tmp_path), final_losses(bench[0])
    assert set(found) == {UNIVERSAL, *(baseline(name) for name in NAMES)}
    assert all(whole[name] == record for name, record in found.items())
    again = (tmp_path / "small" / UNIVERSAL / "metrics.jsonl").stat()
    assert (again.st_mtime_ns, again.st_ino) == (first.st_mtime_ns, first.st_ino)


def test_a_text_that_cannot_be_trained_on_does_not_spoil_the_folder(corpus: Path, tmp_path: Path) -> None:
    """One that is not there leaves nothing at all; after one that is too short, another may follow."""
    scale, folder = tiny_scale(corpus), tmp_path / "out"
    with pytest.raises(LtsRayError, match="no corpus and no file matches"):
        compare_nested([replace(scale, corpus="nowhere*.txt")], folder)
    assert not folder.exists()
    short = tmp_path / "short"
    short.mkdir()
    for name in ("a.txt", "b.txt"):
        (short / name).write_text("The law of the nation and of the people, in the year of the great peace.")
    with pytest.raises(LtsRayError, match="too few for one batch"):
        train_scale(replace(scale, corpus=str(short / "*.txt")), folder / "small")
    once = replace(scale, training=replace(scale.training, steps=1))
    train_scale(once, folder / "small")
    assert final_losses(folder).keys() == scale.runs.keys()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_output_that_is_a_file_is_refused(corpus: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(LtsRayError, match="file is a file"):
        compare_nested([tiny_scale(corpus)], tmp_path / name)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_with_other_settings_is_refused_but_other_threads_are_not(
    bench: tuple[Path, list[ScaleResult]], corpus: Path
) -> None:
    scale = tiny_scale(corpus)
    with pytest.raises(LtsRayError, match="other settings"):
        train_scale(tiny_scale(corpus, steps=5), bench[0] / "small")
    train_scale(replace(scale, training=replace(scale.training, threads=2)), bench[0] / "small")
