"""A model's files: the Hugging Face folder that plain transformers loads.

config.json is a Llama configuration with one key of ours, `lts_ray`: the schema number, the granularities and what
training measured. A submodel with one width in all layers is a plain Llama checkpoint again; one with a width per
layer has no counterpart in transformers and says so by its model type.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, replacing, write_json
from lts_ray.models.config import GRANULARITIES, MatFormerConfig
from lts_ray.models.matformer import MatFormer

SCHEMA = 1
PER_LAYER_MODEL_TYPE = "lts_ray_matformer"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model and what its folder says of it.

    validation_loss: nats per token by granularity, as training measured it; empty where unknown.
    fingerprint: SHA-256 of the configuration and weights; a frontier names the model that it is of by this.
    """

    model: MatFormer
    fingerprint: str
    validation_loss: Mapping[str, float] = field(default_factory=dict)


def save_checkpoint(
    model: MatFormer,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    validation_loss: Mapping[str, float] | None = None,
) -> None:
    """Write both files atomically, the configuration last: a folder that has one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value.detach().to(dtype).contiguous() for name, value in model.state_dict().items()}
    with replacing(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", hugging_face_config(model.config, dtype, validation_loss or {}))


def load_checkpoint(folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Checkpoint:
    """Read a folder that `save_checkpoint`, or transformers' Llama with tied embeddings, wrote.

    Raises LtsRayError for a folder that is missing, corrupt or of another kind of model.
    """
    config, validation_loss = read_config(folder)
    with torch.device("meta"):
        model = MatFormer(config)
    tensors = _read_weights(folder / "model.safetensors")
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise LtsRayError(
                f"checkpoint {folder} does not fit its configuration: {name} should be "
                f"{expected.get(name, 'absent')} but is {found.get(name, 'absent')}"
            )
    model = model.to_empty(device=device)
    model.load_state_dict(tensors)
    fresh = MatFormer(replace(config, widths=(1,) * config.n_layer))  # to_empty left the rotary table unset
    model.rotary = fresh.rotary.to(device)
    return Checkpoint(
        model=model.to(dtype=dtype).eval(), fingerprint=fingerprint(folder), validation_loss=validation_loss
    )


def read_config(folder: Path) -> tuple[MatFormerConfig, dict[str, float]]:
    """The shape of the model in `folder` and its validation losses, without reading the weights."""
    if not folder.is_dir():
        raise LtsRayError(f"model {folder} is not a folder; give one with config.json and model.safetensors")
    raw = read_json(folder / "config.json", what="model configuration")
    model_type = raw.get("model_type")
    if model_type not in ("llama", PER_LAYER_MODEL_TYPE):
        raise LtsRayError(
            f"model {folder} is of type {model_type!r}; lts-ray loads 'llama' and '{PER_LAYER_MODEL_TYPE}'"
        )
    ours = raw.get("lts_ray") or {"schema": SCHEMA}
    if ours.get("schema") != SCHEMA:
        raise LtsRayError(f"model {folder} has schema {ours.get('schema')}; this version reads {SCHEMA}")
    for key, value in (("tie_word_embeddings", True), ("attention_bias", False), ("mlp_bias", False)):
        if raw.get(key, value) != value:
            raise LtsRayError(f"model {folder} has {key}={raw[key]}; lts-ray needs {value}")
    rope = raw.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
        raise LtsRayError(f"model {folder} scales its rotary positions; lts-ray needs the default ones")
    try:
        n_layer = int(raw["num_hidden_layers"])
        widths = ours.get("widths") or [raw["intermediate_size"]] * n_layer
        config = MatFormerConfig(
            vocab_size=int(raw["vocab_size"]),
            d_model=int(raw["hidden_size"]),
            n_head=int(raw["num_attention_heads"]),
            n_kv_head=int(raw.get("num_key_value_heads") or raw["num_attention_heads"]),
            widths=tuple(widths),
            context_length=int(raw["max_position_embeddings"]),
            rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0))),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            granularities=ours.get("granularities") or GRANULARITIES,
        )
        losses = {str(name): float(value) for name, value in ours.get("validation_loss", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LtsRayError(f"model configuration {folder / 'config.json'} is not usable: {error!r}") from None
    return config, losses


def hugging_face_config(
    config: MatFormerConfig, dtype: torch.dtype, validation_loss: Mapping[str, float]
) -> dict[str, Any]:
    uniform = len(set(config.widths)) == 1
    ours: dict[str, Any] = {"schema": SCHEMA, "granularities": dict(config.granularities)}
    if not uniform:
        ours["widths"] = list(config.widths)
    if validation_loss:
        ours["validation_loss"] = dict(validation_loss)
    return {
        "architectures": ["LlamaForCausalLM" if uniform else "MatFormer"],
        "model_type": "llama" if uniform else PER_LAYER_MODEL_TYPE,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": max(config.widths),
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.d_head,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.rms_norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "dtype": str(dtype).removeprefix("torch."),
        "lts_ray": ours,
    }


def read_dtype(folder: Path) -> torch.dtype:
    """The type that the folder's weights are stored in; float32 where it does not say."""
    raw = read_json(folder / "config.json", what="model configuration")
    dtype = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype")), torch.float32)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def fingerprint(folder: Path) -> str:
    """SHA-256 of what determines the model's function: shape and weights, not what training noted beside them."""
    config, _ = read_config(folder)
    digest = hashlib.sha256(json.dumps(hugging_face_config(config, torch.float32, {}), sort_keys=True).encode())
    with (folder / "model.safetensors").open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise LtsRayError(f"model {path.parent} has no {path.name}") from None
    except (OSError, SafetensorError, struct.error) as error:
        raise LtsRayError(f"weights {path} are corrupt or not safetensors: {error}") from None
    tensors.pop("lm_head.weight", None)  # transformers may write the tied output matrix as well
    return {name.removeprefix("model."): value for name, value in tensors.items()}
