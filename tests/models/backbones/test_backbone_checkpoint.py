"""A trained backbone's folder gives the same model back, and is told apart from a universal model's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_checkpoint import is_backbone, load_backbone, save_backbone
from lts_ray.models.backbones.backbone_config import BACKBONES, BackboneConfig
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint

SHAPE = Architecture(d_model=32, n_head=(2, 4), d_inner=(64, 48), d_embed=32)


def config_of(backbone: str) -> BackboneConfig:
    return BackboneConfig(backbone=backbone, architecture=SHAPE, vocab_size=300, context_length=24)


def write(backbone: str, folder: Path, *, seed: int = 0, **options: object) -> torch.nn.Module:
    config = config_of(backbone)
    model = config.build()
    model.initialize(torch.Generator().manual_seed(seed))
    save_backbone(model, config, folder, **options)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_round_trip_keeps_everything(backbone: str, tokens: torch.Tensor, tmp_path: Path) -> None:
    """Scores too: Transformer-XL's table of distances is in no file."""
    model = write(backbone, tmp_path, validation_loss=5.25)
    checkpoint = load_backbone(tmp_path)
    assert (checkpoint.config, checkpoint.validation_loss) == (config_of(backbone), 5.25)
    assert is_backbone(tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.model(tokens), model.eval()(tokens), atol=0, rtol=0)


def test_the_fingerprint_is_of_weights_and_shape_alone(tmp_path: Path) -> None:
    write("gpt2", tmp_path / "one")
    write("gpt2", tmp_path / "two", validation_loss=5.25)
    write("gpt2", tmp_path / "other", seed=1)
    one, two, other = (load_backbone(tmp_path / name).fingerprint for name in ("one", "two", "other"))
    assert one == two != other


def test_weights_may_be_stored_and_loaded_in_another_type(tmp_path: Path) -> None:
    model = write("transformer-xl", tmp_path, dtype=torch.float16)
    loaded = load_backbone(tmp_path).model
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value.half().float(), atol=0, rtol=0)
    assert {each.dtype for each in load_backbone(tmp_path, dtype=torch.bfloat16).model.parameters()} == {torch.bfloat16}


def test_the_two_kinds_of_models_are_not_taken_for_each_other(model_dir: Path, tmp_path: Path) -> None:
    write("transformer-xl", tmp_path)
    with pytest.raises(LtsRayError, match=r"is a trained backbone \(transformer-xl\), not a universal model"):
        load_checkpoint(tmp_path)
    assert not is_backbone(model_dir)
    with pytest.raises(LtsRayError, match="is a universal model, not a trained backbone"):
        load_backbone(model_dir)


def damage_truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def change(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_ours(folder: Path, **changes: object) -> None:
    change(folder, lts_ray={**json.loads((folder / "config.json").read_text())["lts_ray"], **changes})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "corrupt or not safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: change(folder, model_type="bert"), "is of type 'bert', not a trained backbone"),
        (lambda folder: change(folder, model_type=["gpt2"]), "not a trained backbone"),
        (lambda folder: change(folder, model_type="lts_ray_opt"), "names the backbone 'gpt2'"),
        (lambda folder: change(folder, lts_ray=[1]), "has schema None"),
        (lambda folder: change_ours(folder, schema=99), "has schema 99"),
        (lambda folder: change(folder, lts_ray={"schema": 1}), "is not usable"),
        (lambda folder: change_ours(folder, vocab_size=301), "does not fit its configuration"),
        (lambda folder: change_ours(folder, vocab_size="many"), "vocab_size must be a whole number"),
        (lambda folder: change_ours(folder, context_length=10**30), "is not usable"),
        (lambda folder: change_ours(folder, architecture=5), "is not usable: an architecture is an object"),
        (lambda folder: change_ours(folder, validation_loss=[]), "is not usable"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_a_corrupt_or_foreign_folder_is_one_clear_line(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    write("gpt2", folder)
    damage(folder)
    with pytest.raises(LtsRayError, match=message) as caught:
        load_backbone(folder)
    assert "\n" not in str(caught.value)
