"""config.json of transformers' Gemma 3n, to ours and back: of the decoder alone, or of the whole model around it.

What it leaves out is transformers' default. What changes the function and is not built here is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.models.gemma3n.gemma3n_config import E4B_WIDTHS, Gemma3nConfig
from lts_ray.models.matformer.hugging_face.translator import RawConfig, refuse
from lts_ray.submodel import Submodel

TEXT_MODEL_TYPE = "gemma3n_text"
WHOLE_MODEL_TYPE = "gemma3n"
MODEL_TYPES = (TEXT_MODEL_TYPE, WHOLE_MODEL_TYPE)
SCHEMA = 1

NEEDED: Mapping[str, object] = {
    "attention_bias": False,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "use_bidirectional_attention": False,
}
WHOLE: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "d_head": "head_dim",
    "n_shared": "num_kv_shared_layers",
    "context_length": "max_position_embeddings",
    "window": "sliding_window",
    "n_stream": "altup_num_inputs",
    "active_stream": "altup_active_idx",
    "d_laurel": "laurel_rank",
    "d_per_layer": "hidden_size_per_layer_input",
    "per_layer_vocab_size": "vocab_size_per_layer_input",
}
"""Whole numbers, by our name and theirs."""
OPTIONAL: Mapping[str, str] = {"logit_cap": "final_logit_softcapping", "coefficient_limit": "altup_coef_clip"}
"""Numbers that may be null."""


def text_part(raw: RawConfig) -> RawConfig:
    """Of the decoder."""
    if raw.get("model_type") != WHOLE_MODEL_TYPE:
        return raw
    part = raw.get("text_config")
    if not isinstance(part, Mapping):
        raise LtsRayError(f"its configuration has text_config={part!r}; a whole Gemma 3n has an object there")
    return part


def read_raw(raw: RawConfig) -> Gemma3nConfig:
    """Raises LtsRayError for a setting that we do not have; KeyError, TypeError or ValueError for a malformed one."""
    text = text_part(raw)
    refuse(raw, {"tie_word_embeddings": True})
    refuse(text, NEEDED)
    values: dict[str, Any] = {ours: int(text[theirs]) for ours, theirs in WHOLE.items() if text.get(theirs) is not None}
    for ours, theirs in OPTIONAL.items():
        if theirs in text:
            values[ours] = None if text[theirs] is None else float(text[theirs])
    if text.get("rms_norm_eps") is not None:
        values["rms_norm_eps"] = float(text["rms_norm_eps"])
    if text.get("altup_correct_scale") is not None:
        values["scales_output"] = bool(text["altup_correct_scale"])
    ours_part = raw.get("lts_ray") or {}
    return Gemma3nConfig(
        **values,
        **_read_rope(text),
        **_read_token_ids(text, raw),
        widths=_read_widths(text),
        layer_types=tuple(text.get("layer_types") or ()),
        sparsity=tuple(float(share) for share in text.get("activation_sparsity_pattern") or ()),
        granularities=ours_part.get("granularities") or {},
        named={name: Submodel.from_json(value) for name, value in (ours_part.get("submodels") or {}).items()},
    )


def _read_widths(text: RawConfig) -> tuple[int, ...]:
    given = text.get("num_hidden_layers")
    n_layer = len(E4B_WIDTHS) if given is None else int(given)
    widths = text.get("intermediate_size")
    if not isinstance(widths, list):
        return (E4B_WIDTHS[0] if widths is None else int(widths),) * n_layer
    if len(widths) != n_layer:
        raise LtsRayError(f"its configuration has {len(widths)} values of intermediate_size for {n_layer} layers")
    return tuple(map(int, widths))


def _read_rope(text: RawConfig) -> dict[str, Any]:
    """Today a mapping by layer type; before, a key for each type, with rope_scaling beside them, of full attention."""
    parts: Mapping[str, Any] = text.get("rope_parameters") or {}
    thetas: dict[str, Any] = {}
    for ours, kind, old in (
        ("rope_theta", "full_attention", "rope_theta"),
        ("local_rope_theta", "sliding_attention", "rope_local_base_freq"),
    ):
        rope: Mapping[str, Any] = parts.get(kind) or {}
        if kind == "full_attention":
            rope = {**rope, **(text.get("rope_scaling") or {})}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise LtsRayError(f"its configuration has rope {dict(rope)}; lts-ray only has default rotary positions")
        theta = rope.get("rope_theta", text.get(old))
        if theta is not None:
            thetas[ours] = float(theta)
    return thetas


def _read_token_ids(text: RawConfig, raw: RawConfig) -> dict[str, Any]:
    """The whole model's where it says, as it may end a turn with a token that ends no text."""
    ids: dict[str, Any] = {}
    for key in ("bos_token_id", "eos_token_id"):
        for part in (text, raw):
            if key in part:
                value = part[key]
                ids[key] = tuple(value) if isinstance(value, list) else value
    return ids


def write_raw(config: Gemma3nConfig) -> dict[str, Any]:
    """Of the decoder alone: what `read_raw` reads."""
    eos = config.eos_token_id
    ours: dict[str, Any] = {"schema": SCHEMA, "granularities": dict(config.granularities)}
    if config.named:
        ours["submodels"] = {name: submodel.to_json() for name, submodel in config.named.items()}
    return {
        "architectures": ["Gemma3nForCausalLM"],
        "model_type": TEXT_MODEL_TYPE,
        **{theirs: getattr(config, name) for name, theirs in {**WHOLE, **OPTIONAL}.items()},
        **layers_part(config),
        "rms_norm_eps": config.rms_norm_eps,
        "altup_correct_scale": config.scales_output,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": config.rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
        **NEEDED,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "lts_ray": ours,
    }


def layers_part(config: Gemma3nConfig) -> dict[str, Any]:
    """What there is one of for each layer, and what counts them: all that a slice changes."""
    return {
        "num_hidden_layers": config.n_layer,
        "intermediate_size": list(config.widths),
        "layer_types": list(config.layer_types),
        "activation_sparsity_pattern": list(config.sparsity),
        "num_kv_shared_layers": config.n_shared,
    }


def sliced_raw(raw: RawConfig, config: Gemma3nConfig) -> dict[str, Any]:
    """raw, of the model that `config` is a slice of, with what the slice changes."""
    sliced: dict[str, Any] = {
        **raw,
        "lts_ray": {"schema": SCHEMA, "granularities": dict(config.granularities)},
    }
    if raw.get("model_type") == WHOLE_MODEL_TYPE:
        return {**sliced, "text_config": {**text_part(raw), **layers_part(config)}}
    return {**sliced, **layers_part(config)}
