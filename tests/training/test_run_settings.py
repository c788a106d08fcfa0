"""What a run is asked to do is checked before its folder exists, and each mistake is one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from lts_ray.elasticize.elasticize_settings import ElasticizeSettings
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.record import read_record, record_json
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training import ray_trainer as trainer
from lts_ray.training.ray_trainer import run_training
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import DataSettings, ModelSettings, RunSettings, TrainingSettings, load_run_settings
from lts_ray.training.text_run import prepare_text, start_run, train_text
from lts_ray.vision.vision_settings import ImageSettings, VisionModelSettings, VisionSettings
from tests.foreign_tokenizer import write_foreign_tokenizer
from tests.training.runs import tiny_settings

BAD = {
    "training: {betas: 3}": "training.betas must be two numbers, of at least 0 and below 1; got 3",
    "training: {betas: [0.9]}": "training.betas must be two numbers",
    "training: {betas: [0.9, 1]}": "training.betas must be two numbers",
    "training: {betas: [0.9, fast]}": "training.betas must be two numbers",
    "training: {steps: true}": "training.steps must be a whole number; got True",
    "training: {warmup_steps: -1}": "training.warmup_steps must be at least 0; got -1",
    "training: {seed: x}": "training.seed must be a whole number; got 'x'",
    "training: {threads: 0}": "training.threads must be at least 1; got 0",
    "training: {weight_decay: .nan}": "training.weight_decay must be a finite number; got nan",
    "training: {save_dtype: int8}": "training.save_dtype must be one of float32, float16, bfloat16",
    "training: {teacher: 5}": "training.teacher must be text; got 5",
    "data: {corpus: 5}": "data.corpus must be text; got 5",
    "data: {tokenizer: [a]}": "data.tokenizer must be text",
    "data: {validation_fraction: half}": "data.validation_fraction must be a number; got 'half'",
    "data: {validation_fraction: 1}": "data.validation_fraction must be below 1; got 1",
    "data: {max_documents: 0.5}": "data.max_documents must be a whole number; got 0.5",
    "model: {d_model: wide}": "model.d_model must be a whole number; got 'wide'",
    "model: {granularities: [0.5, 1]}": r"model.granularities must be fractions by name, .*; got \[0.5, 1\]",
    "model: {granularities: {S: half, XL: 1}}": "model.granularities must be fractions by name",
    "model: {granularities: {S: 0.5, XL: true}}": "model.granularities must be fractions by name",
    "model: {granularities: {1: 1}}": "a key of model.granularities must be text; got 1",
    "model: {granularities: 5}": "model.granularities must be fractions by name",
    "model: {granularities: {S: 0.25}}": r"model.granularities must be growing fractions that end at 1; got \[0.25\]",
    "model: {granularities: {S: .nan, XL: 1}}": "model.granularities must be growing fractions that end at 1",
    "init_from: 5": "init_from must be text; got 5",
}


@pytest.mark.parametrize(
    "kind",
    [
        RunSettings, ModelSettings, DataSettings, TrainingSettings, ElasticizeSettings,
        VisionSettings, VisionModelSettings, ImageSettings, MatViTConfig,
    ],
)  # fmt: skip
def test_every_key_has_a_comment(kind: Any) -> None:
    """The pages of docs send readers to them."""
    assert [name for name, field in kind.__pydantic_fields__.items() if not field.description] == []


@pytest.mark.parametrize("text", BAD)
def test_a_bad_setting_is_one_line_that_names_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(LtsRayError, match=BAD[text]) as caught:
        load_run_settings(path)
    assert "\n" not in str(caught.value)


def test_betas_of_a_file_are_those_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("training: {betas: [0.8, 0.9]}")
    assert load_run_settings(tmp_path / "config.yaml").training.betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({}, {"corpus": "nothing/*.txt"}, "no corpus and no file matches 'nothing"),
        ({}, {"tokenizer": "nowhere"}, "nowhere has no tokenizer.json"),
        ({"d_model": 33}, {}, "d_model / n_head must be a whole number"),
    ],
    ids=["corpus", "tokenizer", "shape"],
)
def test_a_run_that_cannot_start_leaves_nothing_and_the_corrected_one_starts(
    model: Mapping[str, int], data: Mapping[str, str], message: str, texts: Path, tmp_path: Path
) -> None:
    good, folder = tiny_settings(texts), RunFolder(tmp_path / "run")
    bad = replace(good, model=replace(good.model, **model), data=replace(good.data, **data))  # type: ignore[arg-type]
    with pytest.raises(LtsRayError, match=message):
        start_run(bad, folder)
    assert not folder.path.exists()
    assert start_run(good, folder).data == good.data


def test_a_run_whose_tokens_are_there_needs_no_corpus(texts: Path, tmp_path: Path) -> None:
    settings, folder = tiny_settings(texts), RunFolder(tmp_path / "run")
    prepare_text(settings, folder)
    for path in texts.glob("*.txt"):
        path.unlink()
    start_run(settings, folder)


def test_a_tokenizer_with_more_tokens_than_the_checkpoint_is_refused(
    texts: Path, model_dir: Path, tmp_path: Path
) -> None:
    """One with fewer is not: some checkpoints have embeddings to spare."""
    for vocab_size in (301, 300):
        write_foreign_tokenizer(tmp_path / str(vocab_size), vocab_size=vocab_size)
    start = replace(tiny_settings(texts), model=ModelSettings(), init_from=str(model_dir))
    large, fitting = (
        replace(start, data=replace(start.data, tokenizer=str(tmp_path / name))) for name in ("301", "300")
    )
    with pytest.raises(LtsRayError, match="301 tokens, but the model only 300 embeddings"):
        start_run(large, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    start_run(fitting, RunFolder(tmp_path / "run"))


def test_a_fresh_model_ends_its_texts_as_its_tokenizer_does(texts: Path, tmp_path: Path) -> None:
    write_foreign_tokenizer(tmp_path / "tokenizer")
    write_json(tmp_path / "tokenizer" / "generation_config.json", {"eos_token_id": [2, 5]})
    settings = tiny_settings(texts, steps=1)
    settings = replace(settings, data=replace(settings.data, tokenizer=str(tmp_path / "tokenizer")))
    folder = RunFolder(tmp_path / "run")
    prepare_text(settings, folder)
    train_text(settings, folder)
    eos_id = load_tokenizer(tmp_path / "tokenizer").eos_id
    assert eos_id > 0
    assert load_checkpoint(folder.model).model.config.eos_token_id == eos_id
    assert json.loads((folder.model / "config.json").read_text())["eos_token_id"] == eos_id
    assert load_tokenizer(folder.model).eos_id == eos_id
    assert load_tokenizer(folder.model).eos_ids == {eos_id, 2, 5}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("below", ["", "run"])
def test_an_output_that_is_a_file_is_one_line(resume: bool, below: str, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(LtsRayError, match="file is a file, not a folder: choose another --output"):
        run_training(tiny_settings(texts), tmp_path / "file" / below, resume=resume)
    assert (tmp_path / "file").read_text() == "precious"


class Stopped:
    """A TorchTrainer whose workers end without an error before the run does."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def fit(self) -> None:
        pass


@pytest.mark.parametrize("command", [None, "lts-ray elasticize"])
def test_a_run_that_stopped_early_says_with_which_command_to_go_on(
    command: str | None, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "TorchTrainer", Stopped)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(trainer, "check_room", lambda *_, **__: None)
    given = {} if command is None else {"command": command}
    with pytest.raises(LtsRayError) as caught:
        run_training(tiny_settings(texts), tmp_path / "run", **given)  # type: ignore[arg-type]
    expected = f"{command or 'lts-ray train'} --output {tmp_path / 'run'} --resume"
    assert str(caught.value).endswith(expected)


@pytest.mark.filterwarnings("error")
def test_settings_are_written_without_a_warning_and_read_back() -> None:
    settings = TrainingSettings()
    assert read_record(TrainingSettings, record_json(settings)) == settings
