"""Folders go to plain transformers and come from it; what it has no words for is ours alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint as load_language_model
from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_checkpoint import load_vit, save_vit
from lts_ray.models.vit.vit_extract import extract_vit_checkpoint
from tests.vision.make import fingerprint, make_pixels, make_vit, randomize

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def logits(model: MatViT, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(pixels, submodel=model.config.universal)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder that transformers wrote."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=[6, 4],
        patch_size=2,
        num_channels=3,
        hidden_dropout_prob=0.1,
        id2label={0: "a", 1: "b", 2: "c", 10: "d", 3: "e"},
    )
    model = ViTForImageClassification(config)
    randomize(model)
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_what_transformers_wrote_is_read(theirs: Path) -> None:
    found = load_vit(theirs)
    pixels = make_pixels(4)
    with torch.inference_mode():
        expected = ViTForImageClassification.from_pretrained(theirs).eval()(pixels).logits
    torch.testing.assert_close(logits(found.model, pixels), expected, **CLOSE)
    assert found.model.config.labels == ("a", "b", "c", "e", "d")
    assert not found.nests
    assert list(found.model.config.granularities) == ["S", "M", "L", "XL"]


@pytest.mark.parametrize("submodel", ["XL", "M"])
def test_transformers_loads_what_has_one_width(submodel: str, tmp_path: Path) -> None:
    model, pixels = make_vit(), make_pixels(4)
    save_vit(model, tmp_path / "universal", accuracy={"XL": 0.5})
    folder = tmp_path / "universal"
    if submodel != "XL":
        folder = tmp_path / "smaller"
        extract_vit_checkpoint(tmp_path / "universal", submodel, folder)
    loaded, info = ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    with torch.inference_mode():
        expected = model(pixels, submodel=model.config.submodel(submodel))
        torch.testing.assert_close(loaded.eval()(pixels).logits, expected, **CLOSE)
    assert loaded.config.id2label == {0: "cat", 1: "dog", 2: "owl"}


def test_a_width_per_layer_is_ours_alone_and_comes_back(tmp_path: Path) -> None:
    model, pixels = make_vit(), make_pixels(4)
    save_vit(model, tmp_path / "universal")
    chosen = extract_vit_checkpoint(tmp_path / "universal", "S,XL,9", tmp_path / "mixed")
    raw = json.loads((tmp_path / "mixed" / "config.json").read_text(encoding="utf-8"))
    assert raw["model_type"] == "lts_ray_matvit"
    found = load_vit(tmp_path / "mixed").model
    assert found.config.widths == chosen.widths == (4, 32, 9)
    with torch.inference_mode():
        torch.testing.assert_close(logits(found, pixels), model(pixels, submodel=chosen), **CLOSE)


def test_a_folder_comes_back_as_it_went(tmp_path: Path) -> None:
    """Whatever is not an accuracy is what the fingerprint is of."""
    model = make_vit(pixel_mean=(0.1, 0.2, 0.3), pixel_std=(0.5, 0.6, 0.7), granularities={"half": 0.5, "all": 1.0})
    save_vit(model, tmp_path / "a", accuracy={"half": 0.25})
    save_vit(model, tmp_path / "b")
    found = load_vit(tmp_path / "a")
    assert found.model.config == model.config
    assert found.accuracy == {"half": 0.25}
    assert found.nests
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    with torch.no_grad():
        model.cls_token[0, 0, 0] += 1
    save_vit(model, tmp_path / "b")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_a_model_without_a_classifier_gets_one_for_the_classes_that_are_given(tmp_path: Path) -> None:
    model = ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=4,
                  patch_size=2)
    )  # fmt: skip
    model.save_pretrained(tmp_path / "encoder")
    with pytest.raises(LtsRayError, match="has no classifier"):
        load_vit(tmp_path / "encoder")
    found = load_vit(tmp_path / "encoder", labels=["x", "y", "z"]).model
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(found, pixels), torch.zeros(2, 3))
    with torch.inference_mode():
        expected = model.eval()(pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(found.encode(pixels, submodel=found.config.universal), expected, **CLOSE)


def test_what_is_no_vit_is_refused_in_one_line(theirs: Path, model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="is not a folder"):
        load_vit(tmp_path / "nowhere")
    with pytest.raises(LtsRayError, match="is of type 'llama'; lts-ray vit loads vit"):
        load_vit(model_dir)
    with pytest.raises(LtsRayError, match="is of type 'vit'"):
        load_language_model(theirs)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("hidden_act", "quick_gelu", "hidden_act='quick_gelu'"),
        ("problem_type", "regression", "problem_type='regression'"),
        ("hidden_size", "many", "is not usable"),
        ("image_size", None, "a size is a number of pixels"),
        ("lts_ray", {"schema": 99}, "has schema 99"),
        ("intermediate_size", 25, "does not fit its configuration"),
    ],
)
def test_a_configuration_that_we_do_not_have_is_named(theirs: Path, key: str, value: object, problem: str) -> None:
    raw = json.loads((theirs / "config.json").read_text(encoding="utf-8"))
    (theirs / "config.json").write_text(json.dumps({**raw, key: value}), encoding="utf-8")
    with pytest.raises(LtsRayError, match=problem):
        load_vit(theirs)


def test_nothing_is_extracted_into_a_folder_that_is_in_use(tmp_path: Path) -> None:
    save_vit(make_vit(), tmp_path / "model")
    with pytest.raises(LtsRayError, match="is not empty"):
        extract_vit_checkpoint(tmp_path / "model", "S", tmp_path / "model")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LtsRayError, match="is a file"):
        extract_vit_checkpoint(tmp_path / "model", "S", tmp_path / "file")
