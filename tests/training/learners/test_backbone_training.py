"""A found architecture trains in the same loop: it learns, resumes to the same losses and leaves its own checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.validation_loss import backbone_loss
from lts_ray.models.backbones.backbone_checkpoint import load_backbone
from lts_ray.models.backbones.backbone_config import BACKBONES, BackboneConfig
from lts_ray.text.batches import blocks_of
from lts_ray.text.tokenizer import load_tokenizer
from lts_ray.training import found_architecture as found
from lts_ray.training import loop
from lts_ray.training.found_architecture import found_architecture
from lts_ray.training.learners.backbone_learner import BackboneLearner
from lts_ray.training.loop import make_optimizer
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings, load_run_settings
from lts_ray.training.text_run import prepare_text, start_run, train_text
from tests.training.runs import losses, tiny_settings

SHAPE = Architecture(d_model=32, n_head=(2, 4), d_inner=(64, 48), d_embed=32)
all_backbones = pytest.mark.parametrize("backbone", BACKBONES)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def config_of(backbone: str, *, vocab_size: int = 300) -> BackboneConfig:
    architecture = SHAPE if backbone == "opt" else replace(SHAPE, div_val=4)
    return BackboneConfig(backbone=backbone, architecture=architecture, vocab_size=vocab_size, context_length=32)


def backbone_settings(texts: Path, backbone: str, *, steps: int = 12) -> RunSettings:
    return replace(tiny_settings(texts, steps=steps), model=ModelSettings(), architecture=config_of(backbone))


def run(settings: RunSettings, folder: Path) -> list[tuple[int, object]]:
    prepare_text(settings, RunFolder(folder))
    train_text(settings, RunFolder(folder))
    return losses(folder)


@all_backbones
def test_a_backbone_learns_and_leaves_a_checkpoint_with_its_loss(backbone: str, texts: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    records = run(backbone_settings(texts, backbone, steps=30), folder.path)
    first, last = records[0][1], records[-1][1]
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert last["loss"] < first["loss"] - 0.3
    checkpoint = load_backbone(folder.model)
    assert checkpoint.config.backbone == backbone
    assert checkpoint.config.vocab_size == load_tokenizer(folder.model).vocab_size == 300
    assert checkpoint.validation_loss == last["loss"]
    held_out = blocks_of(np.load(folder.data / "validation.npy"), length=32)
    assert backbone_loss(checkpoint.model, held_out) == pytest.approx(last["loss"], abs=1e-5)


@all_backbones
def test_a_stopped_run_goes_on_to_the_same_losses(
    backbone: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 8; its newest snapshot is of step 6."""
    settings = backbone_settings(texts, backbone)
    expected = run(settings, tmp_path / "whole")
    real = loop.optimize

    def optimize(learner: object, optimizer: object, blocks: object, step: int, *rest: object) -> object:
        if step == 8:
            raise KeyboardInterrupt
        return real(learner, optimizer, blocks, step, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimize", optimize)
        with pytest.raises(KeyboardInterrupt):
            run(settings, tmp_path / "stopped")
    assert losses(tmp_path / "stopped")[-1][0] == 8
    assert run(settings, tmp_path / "stopped") == expected
    one, two = (load_backbone(tmp_path / name / "model").fingerprint for name in ("whole", "stopped"))
    assert one == two


@all_backbones
def test_bfloat16_products_change_the_loss_only_by_rounding(backbone: str) -> None:
    learner = BackboneLearner.fresh(config_of(backbone), torch.Generator().manual_seed(0))
    blocks = torch.randint(0, 300, (2, 17), generator=torch.Generator().manual_seed(1))
    exact, _ = next(learner.losses(blocks, 0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = next(learner.losses(blocks, 0))
    rounded.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)


@pytest.mark.parametrize("backbone", ["gpt2", "transformer-xl"])
@pytest.mark.parametrize("reopened", [False, True], ids=["fresh", "reopened"])
def test_every_parameter_gets_a_gradient_from_every_batch(backbone: str, reopened: bool, tmp_path: Path) -> None:
    """Workers average gradients in one piece: one that lacks a cluster's words must still have its gradients."""
    learner = BackboneLearner.fresh(config_of(backbone, vocab_size=20_010), torch.Generator().manual_seed(0))
    if reopened:
        learner.save(tmp_path, dtype=torch.float32)
        learner = learner.load(tmp_path)
    total, _ = next(learner.losses(torch.zeros(1, 9, dtype=torch.int64), 0))
    total.backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in learner.model.named_parameters() if parameter.grad is None] == []


def test_weight_decay_leaves_norms_and_biases_alone() -> None:
    model = config_of("transformer-xl").build()
    decayed, kept = make_optimizer(model, TrainingSettings()).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(names[each].endswith("bias") or "norm" in names[each] for each in kept["params"])
    assert not any(names[each].endswith("bias") or "norm" in names[each] for each in decayed["params"])


def test_a_run_starts_from_a_trained_backbone(texts: Path, tmp_path: Path) -> None:
    run(backbone_settings(texts, "transformer-xl", steps=1), tmp_path / "first")
    model = tmp_path / "first" / "model"
    base = tiny_settings(texts, steps=1)
    settings = replace(base, init_from=str(model), training=replace(base.training, learning_rate=1e-9))
    start_run(settings, RunFolder(tmp_path / "second"))
    run(settings, tmp_path / "second")
    before, after = load_backbone(model), load_backbone(tmp_path / "second" / "model")
    assert after.config == before.config
    assert after.validation_loss == pytest.approx(before.validation_loss, abs=1e-4)


def test_an_architecture_that_cannot_be_built_is_refused_before_the_run(texts: Path, tmp_path: Path) -> None:
    settings = backbone_settings(texts, "opt")
    assert settings.architecture is not None
    wrong = replace(settings.architecture, architecture=replace(SHAPE, n_head=(2, 3)))
    with pytest.raises(LtsRayError, match="multiple of every n_head; layer 1 has 3"):
        start_run(replace(settings, architecture=wrong), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


YAML = "architecture: {backbone: transformer-xl, architecture: {d_model: 32, n_layer: 2, n_head: 2, d_inner: 64}"


def test_an_architecture_in_yaml_takes_its_context_from_the_training_sequences(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(YAML + "}\ntraining: {sequence_length: 96}")
    architecture = load_run_settings(path).architecture
    assert architecture is not None
    assert (architecture.vocab_size, architecture.context_length) == (2048, 96)
    assert architecture.architecture == Architecture(d_model=32, n_head=(2, 2), d_inner=(64, 64), d_embed=32)


@all_backbones
def test_settings_with_an_architecture_survive_json(backbone: str, texts: Path) -> None:
    settings = backbone_settings(texts, backbone)
    assert RunSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML + "}\nmodel: {d_model: 256}", "not both"),
        (YAML + "}\ninit_from: folder", "from an architecture or from a checkpoint"),
        (YAML + ", context: 5}", "section 'architecture' has unknown keys context"),
        (YAML + ", vocab_size: many}", "vocab_size must be a whole number of at least 1; got 'many'"),
        (YAML.replace("transformer-xl", "lstm") + "}", "unknown backbone 'lstm'"),
        (YAML.replace("n_layer", "n_layers") + "}", "n_head is a list"),
        (YAML.replace("n_layer", "div_vall: 4, n_layer") + "}", "unknown keys div_vall"),
        (YAML.replace("n_layer", "encoder: {n_head: [2], d_inner: [8]}, n_layer") + "}", "leave the encoder out"),
        ("architecture: {backbone: gpt2}", "a backbone lacks architecture"),
        ("architecture: gpt2", "must be a mapping"),
        ("architecture: {}", "a backbone lacks architecture, backbone"),
    ],
)
def test_a_bad_architecture_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(LtsRayError, match=message) as caught:
        load_run_settings(path)
    assert "\n" not in str(caught.value)


def search_result(folder: Path, *names: str) -> Path:
    """What a search writes, the architectures told apart by d_model."""
    points = [
        {"name": name, "architecture": replace(SHAPE, d_model=64 * index, d_embed=64 * index).to_json(), "loss": -1.0}
        for index, name in enumerate(names, start=1)
    ]
    path = folder / found.FILE_NAME
    path.write_text(json.dumps({"schema": found.SCHEMA, "space": "gpt2-homogeneous", "points": points}))
    return path


def test_the_reader_and_the_writer_of_architectures_agree() -> None:
    from lts_ray.search import backbone_search as search

    assert (found.SCHEMA, found.FILE_NAME) == (search.SCHEMA, search.ARCHITECTURES)


def test_a_point_of_a_search_is_found_by_its_name(tmp_path: Path) -> None:
    path = search_result(tmp_path, "6.0M", "12.4M")
    for place in (path, tmp_path):
        config = found_architecture(place, "12.4M", vocab_size=300, context_length=32)
        assert (config.backbone, config.vocab_size, config.context_length) == ("gpt2", 300, 32)
        assert config.architecture == replace(SHAPE, d_model=128, d_embed=128)
    search_result(tmp_path, "6.0M")
    assert found_architecture(path, vocab_size=300, context_length=32).architecture.d_model == 64


def test_a_point_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = search_result(tmp_path, "6.0M", "12.4M")
    with pytest.raises(LtsRayError, match=r"has no architecture '7M'; it has: 6.0M, 12.4M"):
        found_architecture(path, "7M", vocab_size=300, context_length=32)
    with pytest.raises(LtsRayError, match=r"several architectures; name one of: 6.0M, 12.4M"):
        found_architecture(path, vocab_size=300, context_length=32)
    with pytest.raises(LtsRayError, match="has no architectures"):
        found_architecture(search_result(tmp_path), vocab_size=300, context_length=32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"schema": 9}', "has schema 9"),
        ('{"schema": 1, "space": "gpt2", "points": [{"name": "S", "widths": [8]}]}', "not one of architectures"),
        ('{"schema": 1, "space": "lstm", "points": [{"name": "S", "architecture": {}}]}', "unknown search space"),
    ],
)
def test_a_file_that_is_no_search_result_is_one_clear_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "architectures.json"
    path.write_text(content)
    with pytest.raises(LtsRayError, match=message):
        found_architecture(path, "S", vocab_size=300, context_length=32)
