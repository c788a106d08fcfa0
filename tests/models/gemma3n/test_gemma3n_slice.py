"""Files: a slice is what transformers loads, whatever it was cut from, and damage is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    Gemma3nAudioConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nTextConfig,
    Gemma3nVisionConfig,
)
from transformers import Gemma3nConfig as TheirConfig
from transformers.models.gemma3n import modeling_gemma3n

from lts_ray.errors import LtsRayError
from lts_ray.models.gemma3n import sliced_checkpoint as slicing
from lts_ray.models.gemma3n.gemma3n import Gemma3n
from lts_ray.models.gemma3n.gemma3n_checkpoint import UNUSED, gemma3n_fingerprint, load_gemma3n
from lts_ray.models.gemma3n.sliced_checkpoint import slice_checkpoint
from tests.models.gemma3n.saved import save_gemma3n
from tests.models.gemma3n.tiny import SUBMODELS, TEXT, randomize, save_tiny, their_logits

SKIPPING = SUBMODELS["skipping"]


def same_tensors(one: Path, other: Path) -> None:
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("name", SUBMODELS)
@torch.inference_mode()
def test_a_slice_is_a_universal_model_again(
    name: str, sliced: dict[str, Path], gemma_tokens: Tensor, expected: dict[str, Tensor]
) -> None:
    model = load_gemma3n(sliced[name]).model
    torch.testing.assert_close(model(gemma_tokens, submodel=model.config.universal), expected[name], atol=1e-4, rtol=0)
    assert list(model.config.trained) == ["XL"]


def test_a_slice_of_a_slice_is_a_slice(gemma_dir: Path, sliced: dict[str, Path], tmp_path: Path) -> None:
    slice_checkpoint(sliced["skipping"], "12,0,24,24,5,0", tmp_path / "twice")
    slice_checkpoint(gemma_dir, "12,0,0,0,24,24,0,5,0", tmp_path / "once")
    same_tensors(tmp_path / "once" / "model.safetensors", tmp_path / "twice" / "model.safetensors")
    configs = [json.loads((tmp_path / each / "config.json").read_text()) for each in ("once", "twice")]
    assert configs[0] == configs[1]
    assert configs[0]["intermediate_size"] == [12, 24, 24, 5]
    assert configs[0]["num_kv_shared_layers"] == 1


@pytest.mark.parametrize("piece_bytes", [1, 700, 3000])
def test_the_size_of_the_pieces_changes_nothing(
    piece_bytes: int, gemma_dir: Path, sliced: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slicing, "PIECE_BYTES", piece_bytes)
    slice_checkpoint(gemma_dir, SKIPPING, tmp_path / "pieces")
    same_tensors(tmp_path / "pieces" / "model.safetensors", sliced["skipping"] / "model.safetensors")


@torch.inference_mode()
def test_shards_stay_shards(gemma_dir: Path, gemma_tokens: Tensor, expected: dict[str, Tensor], tmp_path: Path) -> None:
    save_tiny(tmp_path / "shards", max_shard_size="40KB")
    (tmp_path / "shards" / "tokenizer.json").write_text("{}")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    slice_checkpoint(tmp_path / "shards", SKIPPING, tmp_path / "sliced")
    written = {path.name for path in (tmp_path / "sliced").iterdir()}
    assert written == {path.name for path in (tmp_path / "shards").iterdir()}
    torch.testing.assert_close(their_logits(tmp_path / "sliced", gemma_tokens), expected["skipping"], atol=0, rtol=0)
    model = load_gemma3n(tmp_path / "shards").model
    actual = model(gemma_tokens, submodel=model.config.universal)
    torch.testing.assert_close(actual, expected["universal"], atol=1e-4, rtol=0)


def test_weights_stay_in_their_type(gemma: Gemma3n, gemma_dir: Path, tmp_path: Path) -> None:
    save_gemma3n(gemma, tmp_path / "half", dtype=torch.bfloat16)
    slice_checkpoint(tmp_path / "half", "S", tmp_path / "sliced")
    whole, cut = (load_file(tmp_path / each / "model.safetensors") for each in ("half", "sliced"))
    assert {value.dtype for value in cut.values()} == {torch.bfloat16}
    name = "model.layers.3.mlp.down_proj.weight"
    assert torch.equal(cut[name], whole[name][:, :12])


def test_keys_that_nothing_reads_are_kept_and_ignored(
    gemma_dir: Path, gemma_tokens: Tensor, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    """The published files have keys and values for layers that look at those of others."""
    folder = tmp_path / "published"
    shutil.copytree(gemma_dir, folder)
    tensors = load_file(folder / "model.safetensors")
    for layer in (6, 7, 8):
        for part in UNUSED:
            tensors[f"model.layers.{layer}.{part}"] = tensors[f"model.layers.5.{part}"] + layer
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    slice_checkpoint(folder, SKIPPING, tmp_path / "sliced")
    cut = load_file(tmp_path / "sliced" / "model.safetensors")
    for kept, layer in ((4, 7), (5, 8)):
        for part in UNUSED:
            assert torch.equal(cut[f"model.layers.{kept}.{part}"], tensors[f"model.layers.{layer}.{part}"])
    logits = their_logits(tmp_path / "sliced", gemma_tokens)
    torch.testing.assert_close(logits, expected["skipping"], atol=0, rtol=0)
    assert load_gemma3n(folder).model.config.n_layer == 9


@torch.inference_mode()
def test_the_whole_model_is_sliced_with_its_towers_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gemma_tokens: Tensor
) -> None:
    """A tower of one matrix stands for vision, whose package is not needed otherwise; audio is a tiny real one."""

    def from_config(config: object) -> nn.Module:
        vision = isinstance(config, Gemma3nVisionConfig)
        return nn.Linear(3, 5) if vision else AutoModel.from_config(config)

    monkeypatch.setattr(modeling_gemma3n, "AutoModel", SimpleNamespace(from_config=from_config))
    audio = Gemma3nAudioConfig(
        hidden_size=16,
        vocab_offset=56,
        vocab_size=4,
        conf_num_hidden_layers=1,
        conf_num_attention_heads=2,
        sscp_conv_channel_size=(8, 4),
        input_feat_size=16,
    )
    vision = Gemma3nVisionConfig(hidden_size=16, vocab_offset=52, vocab_size=4)
    whole = Gemma3nForConditionalGeneration(
        TheirConfig(text_config=Gemma3nTextConfig(**TEXT), audio_config=audio, vision_config=vision)
    ).eval()
    randomize(whole)
    whole.save_pretrained(tmp_path / "whole")
    tokens = gemma_tokens % 50  # of text: the others are embedded by the towers
    model = load_gemma3n(tmp_path / "whole").model
    universal = model(tokens, submodel=model.config.universal)
    torch.testing.assert_close(universal, whole(tokens).logits, atol=1e-4, rtol=0)

    slice_checkpoint(tmp_path / "whole", SKIPPING, tmp_path / "sliced")
    theirs = Gemma3nForConditionalGeneration.from_pretrained(tmp_path / "sliced").eval()
    actual = model(tokens, submodel=model.config.submodel(SKIPPING))
    torch.testing.assert_close(actual, theirs(tokens).logits, atol=1e-4, rtol=0)
    before, after = whole.state_dict(), theirs.state_dict()
    towers = [name for name in before if "language_model" not in name and not name.startswith("lm_head")]
    assert {name.split(".")[1] for name in towers} == {"vision_tower", "audio_tower", "embed_vision", "embed_audio"}
    for name in towers:
        assert torch.equal(after[name], before[name]), name


def test_a_round_trip_keeps_everything(gemma: Gemma3n, gemma_dir: Path, tmp_path: Path) -> None:
    save_gemma3n(gemma, tmp_path / "again", validation_loss={"XL": 3.5})
    checkpoint = load_gemma3n(tmp_path / "again")
    assert checkpoint.model.config == gemma.config
    assert checkpoint.validation_loss == {"XL": 3.5}
    for name, value in gemma.state_dict().items():
        assert torch.equal(checkpoint.model.state_dict()[name], value)
    save_gemma3n(gemma, tmp_path / "unmeasured")
    assert gemma3n_fingerprint(tmp_path / "unmeasured") == checkpoint.fingerprint


def test_another_model_has_another_fingerprint(sliced: dict[str, Path], gemma_dir: Path) -> None:
    found = {gemma3n_fingerprint(folder) for folder in (gemma_dir, *sliced.values())}
    assert len(found) >= len(sliced)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "corrupt or not safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: change_config(folder, model_type="llama"), "is of type 'llama', not one of gemma3n"),
        (lambda folder: change_config(folder, hidden_size=64), "should be .* but is"),
        (lambda folder: change_config(folder, hidden_size="wide"), "is not usable"),
        (lambda folder: change_config(folder, num_kv_shared_layers=2), "layers.6.self_attn.k_norm.weight should be"),
        (lambda folder: change_config(folder, attention_bias=True), "attention_bias=True"),
        (lambda folder: change_config(folder, quantization_config={"bits": 4}), "quantized"),
        (lambda folder: change_config(folder, lts_ray={"schema": 99}), "schema 99"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_a_corrupt_or_foreign_checkpoint_is_one_clear_line_and_nothing_is_written(
    damage: Callable[[Path], object], message: str, gemma_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(gemma_dir, folder)
    damage(folder)
    for use in (load_gemma3n, lambda path: slice_checkpoint(path, "S", tmp_path / "sliced")):
        with pytest.raises(LtsRayError, match=message) as caught:
            use(folder)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "sliced").exists()


def test_a_submodel_that_is_none_writes_nothing(gemma_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="layer 5 cannot be skipped"):
        slice_checkpoint(gemma_dir, "24,24,24,24,24,0,24,24,24", tmp_path / "sliced")
    assert not (tmp_path / "sliced").exists()
