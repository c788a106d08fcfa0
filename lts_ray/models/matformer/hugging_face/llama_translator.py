"""Llama (and so SmolLM2), Qwen2, Qwen3 and Mistral: one shape, whose names are ours as well.

Mistral's sliding window: within it, every token sees all before it, so that a context no longer than the window is
exact. The context is capped there. A configuration that does not speak of a window means transformers' default; null
means none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.family import Family
from lts_ray.models.matformer.hugging_face.translator import (
    RawConfig,
    Tensors,
    activation_name,
    read_activation,
    refuse,
    with_prefix,
    without_prefixes,
)
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.models.rope_scaling import RopeScaling

DEFAULT_WINDOW = 4096
"""Of sliding attention, in transformers."""
DEFAULT_WINDOW_LAYERS = 28
"""Of Qwen: the layer from which on windows are used."""
DEFAULT_THETA = 10_000.0

NEEDED: Mapping[str, object] = {"partial_rotary_factor": 1.0}


@dataclass(frozen=True, kw_only=True)
class LlamaTranslator:
    family: Family
    architecture: str
    default_head_dim: int | None = None
    """Where config.json has none; None: hidden_size / num_attention_heads."""
    bias_keys: Mapping[str, tuple[str, ...]]
    """Keys of config.json that switch biases on, with the parts of the family that each switches."""

    def read(self, raw: RawConfig) -> MatFormerConfig:
        refuse(raw, NEEDED)
        _refuse_windows(raw, of_qwen=self.family.name.startswith("qwen"))
        d_model, n_head = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        head_dim = raw.get("head_dim") or self.default_head_dim
        length, rope = int(raw["max_position_embeddings"]), rope_part(raw)
        scaling = RopeScaling.read(rope, context_length=length)
        biases: dict[str, Any] = {
            part: bool(raw.get(key, False)) for key, parts in self.bias_keys.items() for part in parts
        }
        return MatFormerConfig(
            vocab_size=int(raw["vocab_size"]),
            d_model=d_model,
            n_head=n_head,
            n_kv_head=self._read_n_kv_head(raw, n_head),
            widths=(int(raw["intermediate_size"]),) * int(raw["num_hidden_layers"]),
            context_length=self._read_context_length(raw, stretched(length, scaling)),
            rope_theta=float(rope["rope_theta"]),
            rope_scaling=scaling,
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            family=replace(self.family, activation=read_activation(raw, "hidden_act", "silu"), **biases),
            head_dim=None if head_dim is None or int(head_dim) * n_head == d_model else int(head_dim),
            tied=bool(raw.get("tie_word_embeddings", False)),
        )

    def write(self, config: MatFormerConfig) -> dict[str, Any]:
        switches = {key: getattr(config.family, parts[0]) for key, parts in self.bias_keys.items()}
        scaling = config.rope_scaling
        rope = {"rope_type": "default"} if scaling is None else scaling.written()
        # Absent, Mistral's window would be the default; it is all that a stretched context may be bounded by.
        window = {"sliding_window": None if scaling is None else config.context_length}
        return {
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "intermediate_size": max(config.widths),
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.n_kv_head,
            "head_dim": config.d_head,
            "max_position_embeddings": config.context_length,
            "rope_theta": config.rope_theta,
            "rope_parameters": {**rope, "rope_theta": config.rope_theta},
            **({} if scaling is None else {"rope_scaling": rope}),  # its name for all but today's transformers
            "rms_norm_eps": config.rms_norm_eps,
            "hidden_act": activation_name(config.family.activation),
            **switches,
            **(window if self.family.name == "mistral" else {}),
        }

    def to_ours(self, tensors: Tensors) -> dict[str, Tensor]:
        kept = {name: value for name, value in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
        return without_prefixes(kept, "model.")

    def to_theirs(self, tensors: Tensors) -> dict[str, Tensor]:
        return with_prefix(tensors, "model.")

    def _read_n_kv_head(self, raw: RawConfig, n_head: int) -> int:
        if self.family.name == "llama":
            return int(raw.get("num_key_value_heads") or n_head)  # files from before there was a choice lack it
        return int(raw["num_key_value_heads"] or n_head)

    def _read_context_length(self, raw: RawConfig, length: int) -> int:
        window = raw.get("sliding_window", DEFAULT_WINDOW) if self.family.name == "mistral" else None
        return length if window is None else min(length, int(window))


def _refuse_windows(raw: RawConfig, *, of_qwen: bool) -> None:
    """Of some layers; Qwen's last layers have them where config.json does not say which do."""
    if any(kind != "full_attention" for kind in raw.get("layer_types") or ()):
        raise LtsRayError(f"its configuration has layer_types={raw['layer_types']}; lts-ray has full_attention")
    is_on = of_qwen and raw.get("use_sliding_window") and raw.get("sliding_window", DEFAULT_WINDOW) is not None
    first = raw.get("max_window_layers", DEFAULT_WINDOW_LAYERS)
    if is_on and not raw.get("layer_types") and first < raw["num_hidden_layers"]:
        raise LtsRayError(f"its configuration has use_sliding_window=True from layer {first}; lts-ray only has False")


def rope_part(raw: RawConfig) -> Mapping[str, Any]:
    """What config.json says of rotary positions: in rope_scaling, which goes first, or today in rope_parameters.

    A key that stands beside them is theirs as well.
    """
    key = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    rope: Mapping[str, Any] = raw.get(key) or {}
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise LtsRayError(f"its configuration has {key}={dict(rope)}; lts-ray has one for all layers")
    refuse(rope, {"partial_rotary_factor": 1.0})
    rope = {"rope_theta": raw.get("rope_theta", DEFAULT_THETA), **rope}
    original = raw.get("original_max_position_embeddings")
    return rope if original is None else {**rope, "original_max_position_embeddings": original}


def stretched(length: int, scaling: RopeScaling | None) -> int:
    """The context of a model for which max_position_embeddings is `length`: yarn's may be named unstretched there."""
    if scaling is None or scaling.kind != "yarn":
        return length
    return max(length, int(scaling.original_length * scaling.factor))
