"""Matrices in 8 bits beside a checkpoint's weights: what is read is what was written, and only of these weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lts_ray.checkpoints.extracted import extract_checkpoint
from lts_ray.checkpoints.universal import load_universal
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import (
    fingerprint,
    load_checkpoint,
    save_checkpoint,
    save_quantised,
)
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.quantisation.quantised_matrix import QuantisedMatrix
from lts_ray.quantisation.quantised_weights import at_precision, rounded_weights

FILE = "quantised.safetensors"


def rounded_otherwise(model: MatFormer) -> dict[str, QuantisedMatrix]:
    """Not to the nearest, so that what is read differs from what a load would round."""
    return {
        name: QuantisedMatrix(matrix.codes.clamp(20, 230), matrix.scales * 1.0625)
        for name, matrix in rounded_weights(model).items()
    }


@pytest.fixture
def folder(model_dir: Path, universal: MatFormer, tmp_path: Path) -> Path:
    shutil.copytree(model_dir, tmp_path / "model")
    save_quantised(tmp_path / "model", rounded_otherwise(universal))
    return tmp_path / "model"


def test_what_is_read_is_what_was_written(folder: Path, universal: MatFormer, model_dir: Path) -> None:
    assert load_checkpoint(model_dir).quantised is None
    read, written = load_universal(folder).quantised, rounded_otherwise(universal)
    assert read is not None
    assert read.keys() == written.keys()
    for name, matrix in written.items():
        assert torch.equal(read[name].codes, matrix.codes), name
        assert torch.equal(read[name].scales, matrix.scales), name


def test_the_weights_alone_are_what_a_model_is_named_by(folder: Path, model_dir: Path) -> None:
    assert load_checkpoint(folder).fingerprint == load_checkpoint(model_dir).fingerprint


@pytest.mark.parametrize("submodel", ["S", "50,64,33"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_an_extracted_submodel_has_its_part(
    submodel: str, precision: str, folder: Path, universal: MatFormer, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """Widths that are no multiple of a group, too."""
    extract_checkpoint(folder, submodel, tmp_path / "small")
    small = load_checkpoint(tmp_path / "small")
    assert small.quantised is not None
    expected = at_precision(universal, precision, rounded_otherwise(universal))
    actual = at_precision(small.model, precision, small.quantised)
    with torch.inference_mode():
        wanted = expected(tokens, submodel=universal.config.submodel(submodel))
        torch.testing.assert_close(actual(tokens, submodel=small.model.config.universal), wanted, atol=1e-5, rtol=0)


def test_new_weights_take_the_place_of_the_old_ones_and_of_how_these_were_rounded(
    folder: Path, universal: MatFormer
) -> None:
    save_checkpoint(universal, folder)
    assert load_checkpoint(folder).quantised is None


def change_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], schema: str = "1") -> None:
    planes = load_file(folder / FILE)
    change(planes)
    save_file(planes, folder / FILE, metadata={"schema": schema, "fingerprint": fingerprint(folder)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:500]), "corrupt or not safetensors"),
        (change_weights, "rounded from others than the folder has now: remove the file"),
        (lambda folder: rewrite(folder, lambda planes: None, schema="2"), "have schema 2; this version reads 1"),
        (
            lambda folder: rewrite(folder, lambda planes: planes.pop("layers.1.mlp.up_proj.weight.scales")),
            r"up_proj.weight.scales should be \(torch.float16, \(64, 1\)\) but is absent",
        ),
        (
            lambda folder: rewrite(
                folder, lambda planes: planes.update({"embed_tokens.weight.codes": torch.zeros(300, 33).byte()})
            ),
            r"embed_tokens.weight.codes should be \(torch.uint8, \(300, 32\)\) but is \(torch.uint8, \(300, 33\)\)",
        ),
        (
            lambda folder: rewrite(folder, lambda planes: planes.update({"more": torch.zeros(3)})),
            "more should be absent",
        ),
    ],
)
def test_a_file_of_another_model_or_a_damaged_one_is_one_clear_line(
    damage: Callable[[Path], None], message: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(LtsRayError, match=message) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert FILE in str(caught.value)
