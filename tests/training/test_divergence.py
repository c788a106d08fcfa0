"""A training whose loss is no number stops with one line, and what it leaves is good; no JSON of ours has NaN."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lts_ray.cli.main import main
from lts_ray.console import print_rows
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.text_quality import evaluate
from lts_ray.files import append_json_line, read_json, read_json_lines, write_json
from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.actor import LossActor
from lts_ray.measurement.subjects.submodel_subject import UniversalSource
from lts_ray.models.matformer.hugging_face.checkpoint import save_checkpoint
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from lts_ray.training import loop
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import ModelSettings, RunSettings
from lts_ray.training.snapshot import snapshots
from lts_ray.training.text_run import prepare_text, train_text
from lts_ray.vision.vision_run import train_vit
from lts_ray.vision.vision_settings import VisionSettings
from tests.conftest import make_model
from tests.models.backbones.supernets import supernet_config
from tests.training.runs import tiny_settings

KINDS = ["universal", "independent", "supernet", "vit"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def ruined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The update after so many steps leaves weights that are no numbers."""
    steps: list[int] = []
    good = loop.optimize

    def optimize(learner: Any, optimizer: Any, batch: Any, step: int, *others: Any) -> Any:
        losses = good(learner, optimizer, batch, step, *others)
        if step + 1 in steps:
            with torch.no_grad():
                for parameter in learner.model.parameters():
                    parameter.fill_(math.nan)
        return losses

    monkeypatch.setattr(loop, "optimize", optimize)
    return steps


def run(kind: str, texts: Path, folder: Path, **options: Any) -> None:
    base = tiny_settings(texts, steps=10)
    options = {"checkpoint_every": 3, "evaluate_every": 100, **options}
    if kind == "vit":
        settings = VisionSettings()
        few = {"steps": 10, "batch_size": 8, "threads": 1, "log_every": 1}
        train_vit(replace(settings, training=replace(settings.training, **few, **options)), folder)
        return
    changes: dict[str, Any] = {"training": replace(base.training, **options)}
    if kind == "independent":
        changes["model"] = replace(base.model, independent=True)
    if kind == "supernet":
        changes |= {"model": ModelSettings(), "architecture": supernet_config("gpt2")}
    settings_of_run: RunSettings = replace(base, **changes)
    prepare_text(settings_of_run, RunFolder(folder))
    train_text(settings_of_run, RunFolder(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_no_number_stops_the_run_and_a_good_snapshot_stays(
    kind: str, texts: Path, tmp_path: Path, ruined: list[int]
) -> None:
    """The update after step 6 ruins it, just before the snapshot of step 6, which then has to go."""
    ruined.append(6)
    with pytest.raises(
        LtsRayError, match=r"after step 6 the loss is .*nan.*; the last good snapshot is \S*3;"
    ) as caught:
        run(kind, texts, tmp_path / "run")
    assert "\n" not in str(caught.value)
    folder = RunFolder(tmp_path / "run")
    assert [path.name for path in snapshots(folder.snapshots)] == ["step-00000003"]
    assert not folder.model.exists()
    assert [each["step"] for each in read_json_lines(folder.metrics, what="m") if "loss" in each][-1] == 6
    assert "NaN" not in folder.metrics.read_text()


def test_the_last_update_may_be_the_one_that_ruins(texts: Path, tmp_path: Path, ruined: list[int]) -> None:
    ruined.append(10)
    with pytest.raises(LtsRayError, match=r"after step 10 the loss is .*the last good snapshot is \S*9;"):
        run("universal", texts, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_before_any_snapshot_there_is_no_good_one(texts: Path, tmp_path: Path, ruined: list[int]) -> None:
    ruined.append(1)
    with pytest.raises(LtsRayError, match=r"after step 1 the loss is .*there was no good snapshot yet"):
        run("universal", texts, tmp_path / "run")


def test_a_learning_rate_that_is_much_too_high_is_found_by_the_losses(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=r"training went wrong: .*lower training.learning_rate"):
        run("universal", texts, tmp_path / "run", learning_rate=1e30, warmup_steps=0, gradient_clip=1e30)


def test_weights_that_do_not_fit_what_they_are_stored_in_leave_no_checkpoint(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = loop.finish

    def finish(learner: Any, *others: Any) -> None:
        with torch.no_grad():  # computes the same, by a norm and the matrices behind it
            learner.model.norm.weight.mul_(1e6)
            learner.model.embed_tokens.weight.mul_(1e-6)
        good(learner, *others)

    monkeypatch.setattr(loop, "finish", finish)
    with pytest.raises(LtsRayError, match="stored as float16, the weights give a loss that is no number"):
        run("universal", texts, tmp_path / "run", save_dtype="float16")
    assert not (tmp_path / "run" / "model").exists()
    assert snapshots(RunFolder(tmp_path / "run").snapshots)


@pytest.fixture
def nan_dir(tmp_path: Path, model_dir: Path) -> Path:
    model = make_model()
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    save_checkpoint(model, tmp_path / "nan")
    save_tokenizer(load_tokenizer(model_dir), tmp_path / "nan")
    return tmp_path / "nan"


def test_a_run_from_a_checkpoint_that_is_no_numbers_stops_before_it_learns(
    nan_dir: Path, texts: Path, tmp_path: Path
) -> None:
    base = tiny_settings(texts)
    settings = replace(base, model=ModelSettings(), init_from=str(nan_dir))
    folder = RunFolder(tmp_path / "run")
    prepare_text(settings, folder)
    with pytest.raises(LtsRayError, match="after step 0 the loss is S nan"):
        train_text(settings, folder)
    assert not folder.metrics.exists() or not folder.metrics.read_text()


def test_evaluating_such_a_model_says_so_and_prints_json_that_every_reader_takes(
    nan_dir: Path, texts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (quality,) = evaluate(nan_dir, ["S"], text=str(texts / "0.txt"), length=32)
    assert math.isnan(quality.loss)
    command = ["lts-ray", "evaluate", "--model", str(nan_dir), "-s", "S", "--text", str(texts / "0.txt"), "--json"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line, parse_constant=pytest.fail)
    assert row["loss_nats"] is None
    assert row["perplexity"] is None


def test_a_perplexity_past_all_numbers_is_infinite(
    universal: Any, model_dir: Path, texts: Path, tmp_path: Path
) -> None:
    model = make_model()
    with torch.no_grad():
        model.norm.weight.mul_(1e4)
    save_checkpoint(model, tmp_path / "sure")
    save_tokenizer(load_tokenizer(model_dir), tmp_path / "sure")
    (quality,) = evaluate(tmp_path / "sure", ["S"], text=str(texts / "0.txt"), length=32)
    assert quality.loss > 1000
    assert quality.perplexity == math.inf


def test_a_candidate_whose_loss_is_no_number_has_failed() -> None:
    model = make_model()
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    blocks = torch.randint(0, 300, (2, 17)).numpy()
    outcome = LossActor(UniversalSource(model.config), weights, blocks).loss(model.config.universal)
    assert outcome == Failed(reason="the validation loss is nan")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_in_no_file_of_ours(number: float, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("as it was")
    for write in (write_json, append_json_line):
        with pytest.raises(LtsRayError, match=rf"rows.1.loss is {number}"):
            write(path, {"rows": [{"loss": 1.0}, {"loss": number}]})
    assert path.read_text() == "as it was"


@pytest.mark.parametrize("word", ["NaN", "-Infinity", "1e999", "1" * 5000, "[" * 100_000], ids=lambda word: word[:10])
def test_a_file_with_what_json_does_not_have_is_one_line(word: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(f'{{"loss": {word}}}\n')
    with pytest.raises(LtsRayError, match=r"frontier \S+ cannot be read as JSON") as caught:
        read_json(path, what="frontier")
    assert "\n" not in str(caught.value)
    with pytest.raises(LtsRayError, match=r"log \S+, line 1: not JSON"):
        read_json_lines(path, what="log")


def test_rows_for_a_program_have_null_where_there_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"loss": math.nan, "parts": [1.0, math.inf], "name": "S"}], as_json=True)
    assert capsys.readouterr().out == '{"loss": null, "parts": [1.0, null], "name": "S"}\n'
