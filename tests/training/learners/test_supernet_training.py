"""Fused architectures train in the same loop: by both objectives, resumable, each member a checkpoint of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lts_ray.architecture import Architecture
from lts_ray.device import CPU
from lts_ray.errors import LtsRayError
from lts_ray.evaluation.validation_loss import backbone_loss
from lts_ray.models.backbones.backbone_checkpoint import load_backbone
from lts_ray.models.backbones.backbone_config import BACKBONES
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.text.batches import blocks_of
from lts_ray.training import loop
from lts_ray.training.learners.supernet_learner import SupernetLearner
from lts_ray.training.loop import make_optimizer, optimize, propagate
from lts_ray.training.new_learner import new_learner
from lts_ray.training.run_folder import RunFolder
from lts_ray.training.run_settings import ModelSettings, RunSettings, TrainingSettings, load_run_settings
from lts_ray.training.text_run import prepare_text, start_run, train_text
from tests.models.backbones.supernets import DEEP, SMALL, WIDE, make_supernet, supernet_config
from tests.training.runs import losses, tiny_settings

NAMES = ["small", "wide", "deep"]
WEIGHTS = {"small": 1.0, "wide": 3.0, "deep": 4.0}
BLOCKS = torch.randint(0, 300, (3, 11), generator=torch.Generator().manual_seed(3))
all_backbones = pytest.mark.parametrize("backbone", BACKBONES)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def learner_of(backbone: str, options: TrainingSettings) -> SupernetLearner:
    model = make_supernet(supernet_config(backbone))
    return SupernetLearner(model=model, objective=options.objective_of(model.config.members))


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def supernet_settings(texts: Path, backbone: str, *, steps: int = 12, **options: object) -> RunSettings:
    base = tiny_settings(texts, steps=steps)
    training = replace(base.training, **options)  # type: ignore[arg-type]
    return replace(base, model=ModelSettings(), architecture=supernet_config(backbone), training=training)


def run(settings: RunSettings, folder: Path) -> list[tuple[int, object]]:
    prepare_text(settings, RunFolder(folder))
    train_text(settings, RunFolder(folder))
    return losses(folder)


@all_backbones
def test_joint_gradients_are_those_of_the_weighted_sum_of_the_members_losses(backbone: str) -> None:
    learner = learner_of(backbone, TrainingSettings(weights=WEIGHTS))
    found = propagate(learner, BLOCKS, 0, "float32")
    got = gradients(learner.model)
    learner.model.zero_grad()
    each = {name: learner.model.loss(name, BLOCKS[:, :-1], BLOCKS[:, 1:]) for name in NAMES}
    sum((WEIGHTS[name] / 8 * loss for name, loss in each.items()), start=torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    assert sorted(found) == sorted(NAMES)
    for name, loss in each.items():
        torch.testing.assert_close(found[name], loss.detach())
    torch.testing.assert_close(got, gradients(learner.model), atol=1e-6, rtol=1e-4)


def test_a_sampled_step_trains_the_drawn_member_and_leaves_the_layers_that_it_has_not() -> None:
    options = TrainingSettings(objective="sampled", probabilities={"small": 1.0})
    learner = learner_of("gpt2", options)
    before = {name: each.detach().clone() for name, each in learner.model.weights.named_parameters()}
    assert list(optimize(learner, make_optimizer(learner.model, options), BLOCKS, 0, options, "float32")) == ["small"]
    after = dict(learner.model.weights.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "layers.0.feed_forward.up.weight" in changed
    assert not any(name.startswith(("layers.1.", "layers.2.")) for name in changed)


def test_sampled_steps_draw_every_member() -> None:
    learner = learner_of("opt", TrainingSettings(objective="sampled"))
    drawn = {name for step in range(20) for name in propagate(learner, BLOCKS, step, "float32")}
    assert drawn == set(NAMES)


@all_backbones
def test_a_run_leaves_a_checkpoint_for_each_member_with_its_own_loss(
    backbone: str, texts: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    records = run(supernet_settings(texts, backbone, steps=30, learning_rate=1e-2), folder.path)
    first, last = records[0][1], records[-1][1]
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert list(last) == NAMES
    held_out = blocks_of(np.load(folder.data / "validation.npy"), length=32)
    for name, architecture in supernet_config(backbone).members.items():
        assert last[name] < first[name] - 0.2
        checkpoint = load_backbone(folder.model / name)
        assert checkpoint.config.architecture == architecture
        assert checkpoint.validation_loss == last[name]
        assert backbone_loss(checkpoint.model, held_out) == pytest.approx(last[name], abs=1e-4)
    assert len({round(loss, 3) for loss in last.values()}) == len(NAMES)


def test_a_member_goes_on_alone_as_any_trained_backbone(texts: Path, tmp_path: Path) -> None:
    """`lts-ray train --init-from`: its tokenizer lies beside it."""
    run(supernet_settings(texts, "gpt2", steps=2), tmp_path / "fused")
    model = tmp_path / "fused" / "model" / "wide"
    base = tiny_settings(texts, steps=1)
    settings = replace(base, init_from=str(model), training=replace(base.training, learning_rate=1e-9))
    start_run(settings, RunFolder(tmp_path / "alone"))
    run(settings, tmp_path / "alone")
    before, after = load_backbone(model), load_backbone(tmp_path / "alone" / "model")
    assert after.config == before.config
    assert after.validation_loss == pytest.approx(before.validation_loss, abs=1e-4)


@pytest.mark.parametrize(
    ("backbone", "objective"),
    [("gpt2", "joint"), ("gpt2", "sampled"), ("transformer-xl", "joint"), ("opt", "sampled")],
    ids="{}".format,
)
def test_a_stopped_run_goes_on_to_the_same_losses(
    backbone: str, objective: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 8; its newest snapshot is of step 6."""
    settings = supernet_settings(texts, backbone, objective=objective)
    expected = run(settings, tmp_path / "whole")
    real = loop.optimize

    def stopping(learner: object, optimizer: object, blocks: object, step: int, *rest: object) -> object:
        if step == 8:
            raise KeyboardInterrupt
        return real(learner, optimizer, blocks, step, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimize", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(settings, tmp_path / "stopped")
    assert losses(tmp_path / "stopped")[-1][0] == 8
    assert run(settings, tmp_path / "stopped") == expected
    for name in NAMES:
        one, two = (load_backbone(tmp_path / each / "model" / name).fingerprint for each in ("whole", "stopped"))
        assert one == two


def test_what_was_saved_loads_into_the_same_members(tmp_path: Path) -> None:
    learner = learner_of("transformer-xl", TrainingSettings())
    learner.save(tmp_path, dtype=torch.float16)
    loaded = learner.load(tmp_path)
    assert loaded.model.training
    for name in NAMES:
        wanted = learner.model.extract(name).state_dict()
        for key, value in loaded.model.extract(name).state_dict().items():
            torch.testing.assert_close(value, wanted[key].half().float(), atol=0, rtol=0)


@pytest.mark.parametrize("backbone", ["gpt2", "transformer-xl"])
def test_every_member_gives_gradients_for_every_cluster_of_its_embedding(backbone: str) -> None:
    """Workers average gradients in one piece: which parameters have any may depend on the step, not on the words."""
    settings = RunSettings(architecture=supernet_config(backbone), training=TrainingSettings(sequence_length=8))
    learner = new_learner(settings, vocab_size=20_010, device=CPU)
    propagate(learner, torch.zeros(1, 9, dtype=torch.int64), 0, "float32")
    assert [name for name, parameter in learner.model.named_parameters() if parameter.grad is None] == []


YAML = "architecture: {backbone: gpt2, members: {a: {d_model: 32, n_layer: 2, n_head: 2, d_inner: 64}"
OTHER = ", b: {d_model: 16, n_layer: 3, n_head: 4, d_inner: 48}"


def test_members_in_yaml_take_their_context_from_the_training_sequences(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(YAML + OTHER + "}}\ntraining: {sequence_length: 96, weights: {a: 2, b: 1}}")
    found = load_run_settings(path).architecture
    assert isinstance(found, SupernetConfig)
    assert (found.vocab_size, found.context_length) == (2048, 96)
    assert found.members["b"] == Architecture(d_model=16, n_head=(4,) * 3, d_inner=(48,) * 3, d_embed=16)


def search_result(folder: Path) -> Path:
    members = supernet_config("gpt2").members
    points = [{"name": name, "architecture": each.to_json(), "loss": -1.0} for name, each in members.items()]
    path = folder / "architectures.json"
    path.write_text(json.dumps({"schema": 1, "space": "gpt2", "points": points}))
    return path


def test_points_of_a_search_are_fused_and_the_run_no_longer_needs_the_search(tmp_path: Path) -> None:
    result = search_result(tmp_path)
    path = tmp_path / "config.yaml"
    for place in (result, tmp_path):
        path.write_text(f"architecture: {{from: {place}, points: [deep, small], vocab_size: 300}}")
        settings = load_run_settings(path)
        assert settings.architecture == SupernetConfig(
            backbone="gpt2",
            members={"deep": replace(DEEP, div_val=4), "small": replace(SMALL, div_val=4)},
            vocab_size=300,
            context_length=512,
        )
    result.unlink()
    assert RunSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("architecture: {from: HERE, points: [deep, tall]}", "has no architecture 'tall'; it has: small, wide, deep"),
        ("architecture: {from: HERE, points: [deep]}", "at least two architectures; got deep"),
        ("architecture: {from: HERE, points: [deep, wide, deep]}", "named once each; got deep, wide, deep"),
        ("architecture: {from: HERE}", "takes `from`, a search's architectures.json, and `points`"),
        ("architecture: {points: [deep, wide]}", "takes `from`, a search's architectures.json, and `points`"),
        ("architecture: {from: HERE, points: deep}", "and `points`, a list of names in it; got .* and 'deep'"),
        ("architecture: {from: HERE, points: [7, 8]}", "list of names"),
        ("architecture: {from: HERE/none, points: [a, b]}", "does not exist"),
        ("architecture: {from: HERE, points: [deep, wide], backbone: opt}", "unknown keys backbone; known: context_"),
        ("architecture: {from: HERE, points: [deep, wide], vocab_size: 0}", "vocab_size must be a whole number"),
        (YAML + "}}", "at least two architectures; got a"),
        (YAML + OTHER.replace("d_model", "div_val: 4, d_model") + "}}", "differ in div_val"),
        (YAML + OTHER.replace("d_model", "d_embed: 8, d_model") + "}}", "differ in d_embed"),
        (YAML + OTHER.replace("d_model", "backbone: opt, d_model") + "}}", "unknown keys backbone"),
        (YAML + OTHER + "}, architecture: {}}", "section 'architecture' has unknown keys architecture"),
        (YAML.replace("gpt2", "lstm") + OTHER + "}}", "unknown backbone 'lstm'"),
        ("architecture: {members: [1, 2]}", "a supernet lacks backbone"),
        ("architecture: {backbone: gpt2, members: [1, 2]}", "members are architectures by name"),
        (YAML + OTHER + "}}\ntraining: {weights: {c: 1}}", "unknown granularities c; the model has a, b"),
        (YAML + OTHER + "}}\ntraining: {passes: separate}", "training.passes is for a universal model"),
        (YAML + OTHER + "}}\ntraining: {teacher: folder}", "training.teacher is for a universal model"),
        (YAML + OTHER + "}}\nmodel: {d_model: 256}", "not both"),
        (YAML + OTHER + "}}\ninit_from: folder", "from an architecture or from a checkpoint"),
    ],
)
def test_a_bad_supernet_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    search_result(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("HERE", str(tmp_path)))
    with pytest.raises(LtsRayError, match=message) as caught:
        load_run_settings(path)
    assert "\n" not in str(caught.value)


def test_members_that_cannot_be_built_are_refused_before_the_run(texts: Path, tmp_path: Path) -> None:
    settings = supernet_settings(texts, "opt")
    members = {"wide": replace(WIDE, n_head=(5, 5)), "deep": DEEP}
    wrong = SupernetConfig(backbone="opt", members=members, vocab_size=300, context_length=32)
    with pytest.raises(LtsRayError, match="multiple of every n_head; layer 0 has 5"):
        start_run(replace(settings, architecture=wrong), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
