"""A checkpoint is a Hugging Face folder: plain transformers computes the same, and damage is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lts_ray.checkpoints.extracted import extract, extract_checkpoint
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.submodel import Submodel


@pytest.mark.parametrize("name", ["S", "L", "XL"])
def test_transformers_computes_the_same_logits(
    name: str, model_dir: Path, universal: MatFormer, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """The universal model, and each extracted uniform submodel."""
    folder = model_dir
    if name != "XL":
        folder = tmp_path / "small"
        extract_checkpoint(model_dir, name, folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = theirs(tokens).logits
        actual = universal(tokens, submodel=universal.config.submodel(name))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_what_transformers_saved_loads_here(tokens: torch.Tensor, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_theta=5000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_checkpoint(tmp_path / "theirs").model
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(tokens, submodel=ours.config.universal), theirs(tokens).logits, atol=1e-4, rtol=0
        )


def test_a_round_trip_keeps_everything(model_dir: Path, universal: MatFormer, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(model_dir)
    assert checkpoint.model.config == universal.config
    assert checkpoint.validation_loss == {"S": 5.4, "M": 5.3, "L": 5.2, "XL": 5.1}
    for name, value in universal.state_dict().items():
        torch.testing.assert_close(checkpoint.model.state_dict()[name], value, atol=0, rtol=0)
    save_checkpoint(checkpoint.model, tmp_path / "again")
    assert fingerprint(tmp_path / "again") == checkpoint.fingerprint


def test_another_model_has_another_fingerprint(model_dir: Path, universal: MatFormer, tmp_path: Path) -> None:
    changed = extract(universal, universal.config.universal)
    with torch.no_grad():
        changed.norm.weight[0] += 1
    save_checkpoint(changed, tmp_path / "changed")
    assert fingerprint(tmp_path / "changed") != fingerprint(model_dir)


def test_per_layer_widths_load_here_and_say_what_they_are(model_dir: Path, tmp_path: Path) -> None:
    extract_checkpoint(model_dir, "8,64,16", tmp_path / "mix")
    assert load_checkpoint(tmp_path / "mix").model.config.universal == Submodel((8, 64, 16))
    assert json.loads((tmp_path / "mix" / "config.json").read_text())["model_type"] == "lts_ray_matformer"


def test_what_a_model_may_run_in_is_kept_and_is_no_part_of_its_fingerprint(
    model_dir: Path, universal: MatFormer, tmp_path: Path
) -> None:
    assert "precisions" not in json.loads((model_dir / "config.json").read_text())["lts_ray"]
    narrow = MatFormer(replace(universal.config, precisions=("float32", "int8")))
    narrow.load_state_dict(universal.state_dict())
    save_checkpoint(narrow, tmp_path / "narrow")
    assert json.loads((tmp_path / "narrow" / "config.json").read_text())["lts_ray"]["precisions"] == ["float32", "int8"]
    assert load_checkpoint(tmp_path / "narrow").model.config == narrow.config
    assert fingerprint(tmp_path / "narrow") == fingerprint(model_dir)


def damage_truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def damage_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "corrupt or not safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "is not a JSON object"),
        (lambda folder: damage_config(folder, model_type="bert"), "is of type 'bert'"),
        (lambda folder: damage_config(folder, hidden_size=64), "does not fit its configuration"),
        (lambda folder: damage_config(folder, hidden_size="wide"), "is not usable"),
        (lambda folder: damage_config(folder, lts_ray={"schema": 99}), "schema 99"),
        *(
            (partial(damage_config, lts_ray={"schema": 1, "precisions": value}), "cannot be loaded: precisions must be")
            for value in ([], ["int3"], ["int4", "int8"], "int8")
        ),
        *(
            (partial(damage_config, lts_ray={"schema": 1, "precisions": value}), "config.json is not usable")
            for value in (8, [8], None)
        ),
        (lambda folder: damage_config(folder, tie_word_embeddings=False), "lm_head.weight should be .* but is absent"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_a_corrupt_or_foreign_checkpoint_is_one_clear_line(
    damage: Callable[[Path], None], message: str, model_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(model_dir, folder)
    damage(folder)
    with pytest.raises(LtsRayError, match=message) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
