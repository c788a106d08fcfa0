"""transformers' ViT: its configuration and names, translated to ours and back.

Tensors have the names of files on the hub, which transformers still writes; those that its modules have today are read
as well. Dropout, of training alone, is read over and written as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.hugging_face.translator import (
    RawConfig,
    Tensors,
    activation_name,
    read_activation,
    refuse,
    renamed,
    without_prefixes,
)
from lts_ray.models.vit.vit_config import MatViTConfig

MODEL_TYPE = "vit"
NEEDED: Mapping[str, object] = {"problem_type": "single_label_classification"}
NAMES = {
    "encoder.layer": "layers",
    "embeddings.patch_embeddings.projection": "patches",
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "position_embeddings",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.up_proj",
    "output.dense": "mlp.down_proj",
}
"""Attention's `output.dense` stands before the FFN's, which is a part of it."""
TODAYS_NAMES = {"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
NOT_READ = ("pooler.", "embeddings.mask_token")
"""Of a model for other tasks: a classifier's answer has no part of them."""
CLASSIFIER = "classifier."


def read_vit(raw: RawConfig) -> MatViTConfig:
    """With one width in all layers. What config.json leaves out is as transformers has it.

    Raises LtsRayError for a setting that we do not have; KeyError, TypeError or ValueError for a malformed one.
    """
    refuse(raw, NEEDED)
    head_dim = raw.get("head_dim")
    return MatViTConfig(
        image_size=_pair(raw.get("image_size", 224)),
        patch_size=_pair(raw.get("patch_size", 16)),
        channels=int(raw.get("num_channels", 3)),
        d_model=int(raw.get("hidden_size", 768)),
        n_head=int(raw.get("num_attention_heads", 12)),
        head_dim=None if head_dim is None else int(head_dim),
        widths=(int(raw.get("intermediate_size", 3072)),) * int(raw.get("num_hidden_layers", 12)),
        labels=_read_labels(raw),
        activation=read_activation(raw, "hidden_act", "gelu"),
        qkv_bias=bool(raw.get("qkv_bias", True)),
        layer_norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
    )


def write_vit(config: MatViTConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "intermediate_size": max(config.widths),
        "hidden_act": activation_name(config.activation),
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": _written(config.image_size),
        "patch_size": _written(config.patch_size),
        "num_channels": config.channels,
        "qkv_bias": config.qkv_bias,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(number): label for number, label in enumerate(config.labels)},
        "label2id": {label: number for number, label in enumerate(config.labels)},
        **({} if config.head_dim is None else {"head_dim": config.head_dim}),
    }


def to_ours(tensors: Tensors) -> dict[str, Tensor]:
    kept = {name: value for name, value in without_prefixes(tensors, "vit.").items() if not name.startswith(NOT_READ)}
    return renamed(kept, NAMES | TODAYS_NAMES)


def to_theirs(tensors: Tensors) -> dict[str, Tensor]:
    back = renamed(tensors, {ours: theirs for theirs, ours in NAMES.items()})
    return {name if name.startswith(CLASSIFIER) else f"vit.{name}": value for name, value in back.items()}


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, list | tuple):
        height, width = value
        return int(height), int(width)
    if not isinstance(value, int):
        raise LtsRayError(f"a size is a number of pixels or a pair of them; got {value!r}")
    return value, value


def _written(pair: tuple[int, int]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)


def _read_labels(raw: RawConfig) -> tuple[str, ...]:
    """transformers leaves the names out where there are two without any."""
    names = raw.get("id2label")
    if names is None:
        return tuple(f"LABEL_{number}" for number in range(int(raw.get("num_labels", 2))))
    return tuple(str(names[key]) for key in sorted(names, key=int))
