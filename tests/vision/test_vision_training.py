"""Training learns at every granularity, weights them as asked, resumes after SIGKILL, and fine-tunes plain ViTs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from lts_ray.elasticize.importance import feed_forwards
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json_lines
from lts_ray.models.vit.vit_checkpoint import load_vit, save_vit
from lts_ray.training.learners.universal_learner import Passes
from lts_ray.training.loop import propagate
from lts_ray.training.run_settings import TrainingSettings, read_sections
from lts_ray.vision.accuracy import logits_of
from lts_ray.vision.images import normalize, read_images
from lts_ray.vision.new_vit import new_vit, reorder_vit, vit_neuron_importance
from lts_ray.vision.vision_run import train_vit
from lts_ray.vision.vision_settings import VisionSettings
from lts_ray.vision.vit_learner import ViTLearner
from tests.conftest import ROOT
from tests.forked import forked
from tests.vision.make import (
    TO_BE_KILLED,
    fingerprint,
    make_images,
    make_pixels,
    make_vit,
    randomize,
    run_to_be_killed,
    tiny_settings,
    write_npz,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of images."""
    (tmp_path / "images").mkdir()
    write_npz(tmp_path / "images" / "a.npz", 80)
    return tmp_path / "images"


def records(run: Path) -> list[dict[str, Any]]:
    """Without what a clock said."""
    found = read_json_lines(run / "metrics.jsonl", what="metrics")
    return [{key: value for key, value in each.items() if key != "images_per_s"} for each in found]


def test_on_the_digits_every_granularity_learns(tmp_path: Path) -> None:
    """A tenth would be chance."""
    base = VisionSettings()
    training = replace(base.training, steps=150, batch_size=32, learning_rate=4e-3, warmup_steps=10, threads=1)
    model = replace(base.model, n_layer=2)
    settings = replace(base, training=training, model=model, images=replace(base.images, shift_pixels=0))
    accuracy = load_vit(train_vit(settings, tmp_path / "run")).accuracy
    assert list(accuracy) == ["S", "M", "L", "XL"]
    assert min(accuracy.values()) > 0.75


def test_a_run_leaves_its_log_and_a_checkpoint_with_its_accuracy(folder: Path, tmp_path: Path) -> None:
    model = train_vit(tiny_settings(folder), tmp_path / "run")
    found = records(tmp_path / "run")
    assert [each["step"] for each in found if "loss" in each] == list(range(1, 13))
    assert [each["step"] for each in found if "validation_accuracy" in each] == [5, 10, 12]
    assert found[-1]["final"]
    assert load_vit(model).accuracy == found[-1]["validation_accuracy"]
    assert ViTForImageClassification.from_pretrained(model).config.num_labels == 3


def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    """SIGKILL at a step that is no snapshot; then the run ends as one that was never stopped."""
    settings = tiny_settings(folder, **TO_BE_KILLED)
    expected, killed = tmp_path / "whole", tmp_path / "killed"
    train_vit(settings, expected)
    process = forked(run_to_be_killed, folder, killed)
    while process.is_alive() and not any(each["step"] >= 9 for each in records(killed)):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert max(each["step"] for each in records(killed)) == 9
    train_vit(None, killed)
    assert fingerprint(killed / "model") == fingerprint(expected / "model")
    assert records(killed) == records(expected)


def test_a_run_killed_before_its_first_model_was_written_starts_it_again(folder: Path, tmp_path: Path) -> None:
    settings = tiny_settings(folder)
    whole = train_vit(settings, tmp_path / "whole")
    train_vit(replace(settings, training=replace(settings.training, steps=12)), tmp_path / "cut")
    for name in ("start/config.json", "start/model.safetensors"):
        (tmp_path / "cut" / name).unlink()
    for each in (tmp_path / "cut" / "snapshots").iterdir():
        (each / "state.safetensors").unlink()
        each.rmdir()
    assert fingerprint(train_vit(None, tmp_path / "cut")) == fingerprint(whole)


def test_images_that_changed_do_not_go_on_with_a_run(folder: Path, tmp_path: Path) -> None:
    train_vit(tiny_settings(folder), tmp_path / "run")
    write_npz(folder / "b.npz", 5, seed=9)
    with pytest.raises(LtsRayError, match="have changed since the run began"):
        train_vit(None, tmp_path / "run")


def test_the_joint_gradient_is_the_weighted_sum_of_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one pass and in a pass for each, against the losses one by one."""
    images, weights = make_images(6), {"S": 1.0, "M": 2.0, "L": 1.0, "XL": 4.0}
    options = replace(TrainingSettings(), weights=weights)
    reference = make_vit()
    total = torch.zeros(())
    for name, weight in weights.items():
        logits = reference(normalize(images.pixels, reference.config), submodel=reference.config.trained[name])
        total = total + weight / 8 * functional.cross_entropy(logits, images.labels)
    total.backward()  # type: ignore[no-untyped-call]
    for passes in get_args(Passes):
        model = make_vit()
        objective = options.objective_of(model.config.granularities)
        losses = propagate(ViTLearner(model=model, objective=objective, passes=passes), images, 0, "float32")
        assert sum(weights[name] / 8 * float(loss) for name, loss in losses.items()) == pytest.approx(
            float(total.detach())
        )
        for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_the_sampled_objective_trains_one_granularity_a_step(folder: Path, tmp_path: Path) -> None:
    probabilities = {"S": 1.0, "M": 0.0, "L": 0.0, "XL": 1.0}
    train_vit(tiny_settings(folder, objective="sampled", probabilities=probabilities), tmp_path / "run")
    drawn = [tuple(each["loss"]) for each in records(tmp_path / "run") if "loss" in each]
    assert set(drawn) == {("S",), ("XL",)}


def test_alone_a_granularity_is_a_plain_model_of_its_size(folder: Path, tmp_path: Path) -> None:
    settings = replace(tiny_settings(folder, weights="xl-double")).alone("M")
    model = load_vit(train_vit(settings, tmp_path / "run")).model
    assert model.config.widths == (8, 8)
    assert dict(model.config.granularities) == {"XL": 1.0}


def test_alone_a_granularity_is_not_drawn_for(folder: Path) -> None:
    drawn = tiny_settings(folder, objective="sampled", probabilities={"S": 1, "M": 1, "L": 1, "XL": 1})
    assert drawn.alone("M") == tiny_settings(folder).alone("M")


def plain_vit(folder: Path, *, labels: int = 3) -> Path:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[6, 4],
        patch_size=2, num_channels=3, num_labels=labels,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    randomize(model)
    model.save_pretrained(folder)
    return folder


def test_a_plain_vit_is_put_in_order_and_fine_tuned(folder: Path, tmp_path: Path) -> None:
    plain = plain_vit(tmp_path / "plain")
    settings = replace(VisionSettings(), images=tiny_settings(folder).images, init_from=str(plain))
    data = read_images(str(folder))
    before, after = load_vit(plain).model, new_vit(settings, data)
    pixels, universal = make_pixels(9), before.config.universal
    torch.testing.assert_close(
        logits_of(after, pixels, universal), logits_of(before, pixels, universal), atol=1e-4, rtol=1e-4
    )
    assert not torch.equal(feed_forwards(after)[0].up_proj.weight, feed_forwards(before)[0].up_proj.weight)
    kept = new_vit(replace(settings, by_importance=False), data)
    assert torch.equal(feed_forwards(kept)[0].up_proj.weight, feed_forwards(before)[0].up_proj.weight)
    run = train_vit(replace(settings, training=tiny_settings(folder, train="ffn").training), tmp_path / "run")
    tuned = load_vit(run)
    assert tuned.nests
    assert torch.equal(tuned.model.patches.weight, after.patches.weight)
    assert not torch.equal(feed_forwards(tuned.model)[0].up_proj.weight, feed_forwards(after)[0].up_proj.weight)
    again = new_vit(replace(settings, init_from=str(run)), data)
    assert torch.equal(feed_forwards(again)[0].up_proj.weight, feed_forwards(tuned.model)[0].up_proj.weight)


def test_other_classes_need_a_new_classifier(folder: Path, tmp_path: Path) -> None:
    plain = plain_vit(tmp_path / "plain", labels=7)
    settings = replace(VisionSettings(), images=tiny_settings(folder).images, init_from=str(plain))
    data = read_images(str(folder))
    with pytest.raises(LtsRayError, match=r"3 classes, but .* knows 7: add new_classifier: true"):
        new_vit(settings, data)
    found = new_vit(replace(settings, new_classifier=True, by_importance=False), data)
    assert found.config.labels == ("0", "1", "2")
    assert torch.equal(found.patches.weight, load_vit(plain).model.patches.weight)


def test_what_was_extracted_per_layer_does_not_nest_again(folder: Path, tmp_path: Path) -> None:
    save_vit(make_vit(widths=(4, 32, 9)), tmp_path / "mixed")
    settings = replace(VisionSettings(), init_from=str(tmp_path / "mixed"))
    with pytest.raises(LtsRayError, match="layers of different width"):
        new_vit(settings, read_images(str(folder)))


def test_a_score_is_the_squared_slope_of_the_loss_in_the_neurons_output() -> None:
    """Against finite differences in float64: the neuron's output is scaled a little up and down."""
    model, images = make_vit().double(), make_images(2)
    images = replace(images, pixels=images.pixels.double())
    submodel = model.config.submodel("L")
    scores = vit_neuron_importance(model, images, submodel)
    assert [len(each) for each in scores] == list(submodel.widths)
    for layer, neuron in [(0, 0), (1, 7), (2, 15)]:
        column = feed_forwards(model)[layer].down_proj.weight[:, neuron]
        expected = 0.0
        for pixels, label in zip(normalize(images.pixels, model.config), images.labels, strict=True):
            losses, kept = [], column.detach().clone()
            for scale in (1 + 1e-5, 1 - 1e-5):
                with torch.no_grad():
                    column *= scale
                    losses.append(float(functional.cross_entropy(model(pixels[None], submodel=submodel)[0], label)))
                    column.copy_(kept)
            expected += ((losses[0] - losses[1]) / 2e-5) ** 2 / 2
        assert float(scores[layer][neuron]) == pytest.approx(expected, rel=1e-3)


def test_order_brings_small_submodels_nearer_to_the_universal_one() -> None:
    """Neurons that do nothing stand first, and come last."""
    model, images = make_vit(), make_images(12)
    with torch.no_grad():
        for ffn in feed_forwards(model):
            ffn.down_proj.weight[:, :16] = 0
    half, full = model.config.submodel("L"), model.config.universal
    expected = logits_of(model, images.pixels, full)
    assert (logits_of(model, images.pixels, half) - expected).abs().max() > 0.1
    reorder_vit(model, images)
    torch.testing.assert_close(logits_of(model, images.pixels, half), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "must be a mapping"),
        ("modle: {}", "unknown keys modle"),
        ("model: {width: 3}", "model has unknown keys width; known: d_ff"),
        ("images: {shift_pixels: -1}", "images.shift_pixels must be"),
        ("training: {steps: 0}", "training.steps must be"),
        ("training: {sequence_length: 9}", "is for language models"),
        ("training: {weights: {Q: 1}}", "unknown granularities Q"),
        ("granularities: {S: 2}", "growing fractions"),
        ("new_classifier: true", "give init_from"),
        ("init_from: x\nmodel: {d_model: 8}", "leave the section 'model' out"),
        ("calibration_images: 0", "calibration_images must be"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(LtsRayError, match=problem) as error:
        VisionSettings.from_json(read_sections(tmp_path / "a.yaml"))
    assert "\n" not in str(error.value)


def test_the_shipped_configuration_is_what_training_does_without_one() -> None:
    found = VisionSettings.from_json(read_sections(ROOT / "configs" / "vit-digits.yaml"))
    assert replace(found, training=replace(found.training, threads=None)) == VisionSettings()
    assert VisionSettings.from_json(found.to_json()) == found


def test_a_folder_in_use_and_one_that_holds_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="add --resume"):
        train_vit(tiny_settings(folder), folder)
    with pytest.raises(LtsRayError, match="holds no run to resume"):
        train_vit(None, tmp_path / "nowhere")
    with pytest.raises(LtsRayError, match="is a file"):
        train_vit(tiny_settings(folder), folder / "a.npz")
    with pytest.raises(LtsRayError, match="no granularity 'Q'"):
        tiny_settings(folder).alone("Q")
