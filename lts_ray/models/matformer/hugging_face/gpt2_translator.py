"""GPT-2: queries, keys and values are one matrix there, and all matrices are stored the other way round."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lts_ray.models.family import GPT2, Family
from lts_ray.models.matformer.hugging_face.translator import (
    RawConfig,
    Tensors,
    activation_name,
    read_activation,
    refuse,
    renamed,
    with_prefix,
    without_prefixes,
)
from lts_ray.models.matformer.matformer_config import MatFormerConfig

NEEDED: Mapping[str, object] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
NAMES = {
    "wte": "embed_tokens",
    "wpe": "embed_positions",
    "h": "layers",
    "ln_f": "norm",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
MASKS = (".attn.bias", ".attn.masked_bias")
"""Causal masks, which earlier files hold as if they were weights."""
FUSED = ".attn.c_attn."
PART = re.compile(r"^(.*)\.self_attn\.([qkv])_proj\.(.*)$")


@dataclass(frozen=True)
class GPT2Translator:
    family: Family = GPT2
    architecture: str = "GPT2LMHeadModel"

    def read(self, raw: RawConfig) -> MatFormerConfig:
        refuse(raw, NEEDED)
        d_model, n_head = int(raw["n_embd"]), int(raw["n_head"])
        inner = raw.get("n_inner")
        return MatFormerConfig(
            vocab_size=int(raw["vocab_size"]),
            d_model=d_model,
            n_head=n_head,
            n_kv_head=n_head,
            widths=(4 * d_model if inner is None else int(inner),) * int(raw["n_layer"]),
            context_length=int(raw["n_positions"]),
            rms_norm_eps=float(raw.get("layer_norm_epsilon", 1e-5)),
            family=replace(GPT2, activation=read_activation(raw, "activation_function", "gelu_new")),
            tied=bool(raw.get("tie_word_embeddings", True)),
        )

    def write(self, config: MatFormerConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "n_embd": config.d_model,
            "n_inner": max(config.widths),
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_positions": config.context_length,
            "layer_norm_epsilon": config.rms_norm_eps,
            "activation_function": activation_name(config.family.activation),
        }

    def to_ours(self, tensors: Tensors) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        bare = without_prefixes(tensors, "transformer.")
        for name, value in bare.items():
            if name.endswith(MASKS):
                continue
            if FUSED in name:
                for letter, part in zip("qkv", _split(bare, name), strict=True):
                    parts[name.replace(FUSED, f".self_attn.{letter}_proj.")] = turned(name, part)
            else:
                parts[name] = turned(name, value)
        return renamed(parts, NAMES)

    def to_theirs(self, tensors: Tensors) -> dict[str, Tensor]:
        back = renamed(tensors, {ours: theirs for theirs, ours in NAMES.items()})
        result: dict[str, Tensor] = {}
        for name, value in back.items():
            part = PART.match(name)
            if part is None:
                result[name] = turned(name, value)
            elif part[2] == "q":
                fused = f"{part[1]}{FUSED}{part[3]}"
                split = [back[f"{part[1]}.self_attn.{letter}_proj.{part[3]}"] for letter in "qkv"]
                result[fused] = turned(fused, torch.cat(split))
        return with_prefix(result, "transformer.")


def _split(tensors: Tensors, name: str) -> Sequence[Tensor]:
    """Queries, keys and values of [d_model, 3·d_model], or of a bias; an extracted model may have fewer keys."""
    out = tensors.get(f"{name.partition(FUSED)[0]}.attn.c_proj.weight")  # [queries, d_model]
    fused = tensors[name]
    queries = fused.shape[-1] // 3 if out is None else len(out)
    keys = (fused.shape[-1] - queries) // 2
    return torch.split(fused, [queries, keys, fused.shape[-1] - queries - keys], dim=-1)


def turned(name: str, value: Tensor) -> Tensor:
    """A layer's matrix [in, out], by its name in GPT-2, as [out, in], and the other way round; all else as it is."""
    return value.t() if ".c_" in name and value.dim() == 2 else value
