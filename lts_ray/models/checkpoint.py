"""A model's files: the Hugging Face folder that plain transformers loads.

config.json is a Llama configuration with one key of ours, `lts_ray`: the schema number, the granularities and what
training measured. A submodel with one width in all layers is a plain Llama checkpoint again; one with a width per
layer has no counterpart in transformers and says so by its model type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json
from lts_ray.models.backbones import MODEL_TYPES as BACKBONE_MODEL_TYPES
from lts_ray.models.checkpoint_folder import CONFIG, check_fit, digest_of, read_raw_config, read_weights, write_folder
from lts_ray.models.config import GRANULARITIES, MatFormerConfig
from lts_ray.models.matformer import MatFormer

SCHEMA = 1
PER_LAYER_MODEL_TYPE = "lts_ray_matformer"
UNIVERSAL_MODEL_TYPES = ("llama", PER_LAYER_MODEL_TYPE)


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
    """Write the folder of `model`; dtype: what its weights are stored in."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    write_folder(folder, tensors, hugging_face_config(model.config, dtype, validation_loss or {}), dtype=dtype)


def load_checkpoint(folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Checkpoint:
    """Read a folder that `save_checkpoint`, or transformers' Llama with tied embeddings, wrote.

    Raises LtsRayError for a folder that is missing, corrupt or of another kind of model.
    """
    config, validation_loss = read_config(folder)
    with torch.device("meta"):
        model = MatFormer(config)
    tensors = read_weights(folder)
    tensors.pop("lm_head.weight", None)  # transformers may write the tied output matrix as well
    tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    check_fit(folder, model, tensors)
    model = model.to_empty(device=device)
    model.load_state_dict(tensors)
    fresh = MatFormer(replace(config, widths=(1,) * config.n_layer))  # to_empty left the rotary table unset
    model.rotary = fresh.rotary.to(device)
    return Checkpoint(
        model=model.to(dtype=dtype).eval(), fingerprint=fingerprint(folder), validation_loss=validation_loss
    )


def read_config(folder: Path) -> tuple[MatFormerConfig, dict[str, float]]:
    """The shape of the model in `folder` and its validation losses, without reading the weights."""
    raw = read_raw_config(folder)
    model_type = str(raw.get("model_type"))
    if model_type in BACKBONE_MODEL_TYPES:
        raise LtsRayError(
            f"model {folder} is a trained backbone ({BACKBONE_MODEL_TYPES[model_type]}), not a universal model: "
            "it has no submodels; `lts-ray train` can go on with it (--init-from)"
        )
    if model_type not in UNIVERSAL_MODEL_TYPES:
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
        raise LtsRayError(f"model configuration {folder / CONFIG} is not usable: {error!r}") from None
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
    raw = read_json(folder / CONFIG, what="model configuration")
    dtype = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype")), torch.float32)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def fingerprint(folder: Path) -> str:
    """SHA-256 of what determines the model's function: shape and weights, not what training noted beside them."""
    config, _ = read_config(folder)
    return digest_of(folder, hugging_face_config(config, torch.float32, {}))
