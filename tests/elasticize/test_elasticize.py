"""From a checkpoint of transformers to an elastic one, without the training, which has its tests elsewhere."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lts_ray.checkpoints.extracted import extract
from lts_ray.elasticize.elastic_run import elasticize
from lts_ray.elasticize.elasticize_settings import ElasticizeSettings, load_elasticize_settings
from lts_ray.errors import LtsRayError
from lts_ray.files import write_json
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_checkpoint
from lts_ray.record import record_json
from lts_ray.text.tokenizer import load_tokenizer, save_tokenizer
from lts_ray.training import ray_trainer as trainer
from lts_ray.training.run_settings import DataSettings, TrainingSettings
from tests.conftest import make_model
from tests.foreign_tokenizer import assert_same_tokenizer, write_foreign_tokenizer


@pytest.fixture
def source(tmp_path: Path, model_dir: Path) -> Path:
    """A checkpoint as transformers saves it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=load_tokenizer(model_dir).vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    folder = tmp_path / "source"
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(load_tokenizer(model_dir), folder)
    return folder


@pytest.fixture
def settings(source: Path, texts: Path) -> ElasticizeSettings:
    return ElasticizeSettings(
        source=str(source),
        data=DataSettings(corpus=str(texts / "*.txt"), validation_fraction=0.25),
        training=TrainingSettings(sequence_length=32, precision="float32"),
        fine_tune=False,
        calibration_blocks=4,
        report_blocks=3,
    )


def test_the_reordered_checkpoint_is_the_original_to_transformers(
    settings: ElasticizeSettings, source: Path, tmp_path: Path, tokens: torch.Tensor
) -> None:
    elastic = elasticize(settings, tmp_path / "out")
    before, after = (AutoModelForCausalLM.from_pretrained(each).eval() for each in (source, elastic.model))
    with torch.inference_mode():
        torch.testing.assert_close(after(tokens % 256).logits, before(tokens % 256).logits, atol=1e-4, rtol=0)
    assert load_tokenizer(elastic.model).vocab_size == load_tokenizer(source).vocab_size


def test_the_comparison_has_a_row_for_each_stage_and_granularity(settings: ElasticizeSettings, tmp_path: Path) -> None:
    rows = elasticize(settings, tmp_path / "out").rows
    assert [(each.stage, each.submodel) for each in rows] == [
        (stage, name) for stage in ("prefix", "importance") for name in ("S", "M", "L", "XL")
    ]
    universal = [each for each in rows if each.submodel == "XL"]
    assert all(each.agreement == 1 and abs(each.kl) < 1e-6 for each in universal)
    assert universal[0].loss == pytest.approx(universal[1].loss, abs=1e-5)
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["rows"] == [each.to_json() for each in rows]


def test_a_resumed_run_does_not_look_for_importance_again(settings: ElasticizeSettings, tmp_path: Path) -> None:
    first = elasticize(settings, tmp_path / "out")
    weights = first.model / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert elasticize(None, tmp_path / "out") == first
    assert weights.stat().st_mtime_ns == before


def test_neurons_may_stay_as_they_stand(settings: ElasticizeSettings, source: Path, tmp_path: Path) -> None:
    elastic = elasticize(replace(settings, by_importance=False), tmp_path / "out")
    before, after = load_checkpoint(source).model, load_checkpoint(elastic.model).model
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name])


def test_other_granularities_are_kept_in_the_checkpoint(settings: ElasticizeSettings, tmp_path: Path) -> None:
    elastic = elasticize(replace(settings, granularities={"half": 0.5, "full": 1.0}), tmp_path / "out")
    assert list(load_checkpoint(elastic.model).model.config.trained) == ["half", "full"]


def test_an_extracted_submodel_is_refused_before_anything_is_written(
    settings: ElasticizeSettings, model_dir: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    model = make_model()
    save_checkpoint(extract(model, model.config.submodel("8,64,16")), mixed)
    save_tokenizer(load_tokenizer(model_dir), mixed)
    with pytest.raises(LtsRayError, match="different width"):
        elasticize(replace(settings, source=str(mixed)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD = {
    "granularities: [0.5, 1]": "granularities must be fractions by name",
    "granularities: {S: half, XL: 1}": "granularities must be fractions by name",
    "granularities: 5": "granularities must be fractions by name",
    "granularities: {S: 0.25}": "granularities must be growing fractions that end at 1",
    "calibration_blocks: x": "calibration_blocks must be a whole number; got 'x'",
    "report_blocks: 0": "report_blocks must be at least 1; got 0",
    "by_importance: sometimes": "by_importance must be true or false; got 'sometimes'",
    "fine_tune: 1": "fine_tune must be true or false; got 1",
    "data: {corpus: 5}": "data.corpus must be text; got 5",
    "data: {tokenizer: folder}": "the tokenizer is the original checkpoint's: leave data.tokenizer out",
    "data: 5": "data must be a mapping; got 5",
    "training: {betas: 3}": "training.betas must be two numbers",
    "training: 5": "training must be a mapping; got 5",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_configuration_is_one_clear_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(LtsRayError, match=BAD[text]) as caught:
        load_elasticize_settings(path, source="x", corpus=None, steps=None)
    assert "\n" not in str(caught.value)


def test_a_corpus_that_is_not_there_is_refused_before_anything_is_written(
    settings: ElasticizeSettings, tmp_path: Path
) -> None:
    """So that the corrected command is not told that the folder is not empty."""
    with pytest.raises(LtsRayError, match="no corpus and no file matches 'nowhere"):
        elasticize(replace(settings, data=replace(settings.data, corpus="nowhere/*.txt")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert elasticize(settings, tmp_path / "out").model.is_dir()


def test_a_gguf_file_that_nothing_here_reads_is_refused_before_anything_is_written(
    settings: ElasticizeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(LtsRayError, match=r"pip install 'lts-ray\[gguf\]'"):
        elasticize(replace(settings, source=str(tmp_path / "tiny.gguf")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_is_to_transformers_what_the_sources_is(
    settings: ElasticizeSettings, source: Path, tmp_path: Path
) -> None:
    write_foreign_tokenizer(source)
    write_json(source / "generation_config.json", {"eos_token_id": [3, 8]})
    elastic = elasticize(settings, tmp_path / "out")
    assert load_tokenizer(elastic.model).eos_ids == load_tokenizer(source).eos_ids >= {3, 8}
    assert assert_same_tokenizer(source, elastic.model).pad_token == "<pad>"


def test_a_tokenizer_that_is_another_models_is_refused(
    settings: ElasticizeSettings, source: Path, tmp_path: Path
) -> None:
    write_foreign_tokenizer(source, vocab_size=310)
    with pytest.raises(LtsRayError, match="it is another model's tokenizer"):
        elasticize(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_an_output_that_is_a_file_is_one_line(settings: ElasticizeSettings, resume: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(LtsRayError, match="file is a file, not a folder: choose another --output"):
        elasticize(None if resume else settings, tmp_path / "file")


def test_a_training_that_stopped_early_is_gone_on_with_by_elasticize(
    settings: ElasticizeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(trainer, "check_room", lambda *_, **__: None)
    monkeypatch.setattr(trainer.TorchTrainer, "fit", lambda _: None)
    with pytest.raises(LtsRayError, match=r"go on with: lts-ray elasticize --output .*out --resume"):
        elasticize(replace(settings, fine_tune=True), tmp_path / "out")


@pytest.mark.parametrize("name", ["absent", "absent.gguf"])
def test_a_source_that_is_not_there_is_one_clear_line(settings: ElasticizeSettings, name: str, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=name):
        elasticize(replace(settings, source=str(tmp_path / name)), tmp_path / "out")


def test_a_folder_with_results_is_not_overwritten(settings: ElasticizeSettings, tmp_path: Path) -> None:
    elasticize(settings, tmp_path / "out")
    with pytest.raises(LtsRayError, match="--resume"):
        elasticize(settings, tmp_path / "out")
    with pytest.raises(LtsRayError, match="holds no run to resume"):
        elasticize(None, tmp_path / "empty")


def test_settings_come_back_from_json_and_unknown_keys_are_named(settings: ElasticizeSettings, tmp_path: Path) -> None:
    assert ElasticizeSettings.from_json(json.loads(json.dumps(record_json(settings)))) == settings
    file = tmp_path / "elastic.yaml"
    file.write_text("training: {steps: 7}\nimportance: none\n")
    with pytest.raises(LtsRayError, match="importance"):
        load_elasticize_settings(file, source="x", corpus=None, steps=None)
    file.write_text("training: {steps: 7}\n")
    found = load_elasticize_settings(file, source="x", corpus="texts", steps=None)
    assert (found.training.steps, found.training.train, found.data.corpus) == (7, "ffn", "texts")
    assert not load_elasticize_settings(file, source="x", corpus=None, steps=0).fine_tune
