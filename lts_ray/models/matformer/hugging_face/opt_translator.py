"""OPT. Its table of positions begins with two rows that only padding reads: they are dropped, and written as zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.models.family import OPT, Family
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

PADDING_ROWS = 2
POSITIONS = "embed_positions.weight"
NEEDED: Mapping[str, object] = {
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "layer_norm_elementwise_affine": True,
}
LAYER_NAMES = {
    "self_attn.out_proj": "self_attn.o_proj",
    "self_attn_layer_norm": "input_layernorm",
    "fc1": "mlp.up_proj",
    "fc2": "mlp.down_proj",
}


@dataclass(frozen=True)
class OPTTranslator:
    family: Family = OPT
    architecture: str = "OPTForCausalLM"

    def read(self, raw: RawConfig) -> MatFormerConfig:
        refuse(raw, NEEDED)
        d_model, n_head = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        d_embed = raw.get("word_embed_proj_dim")
        if d_embed is not None and d_embed != d_model:
            raise LtsRayError(f"its configuration has word_embed_proj_dim={d_embed!r}; lts-ray needs {d_model}")
        biased = bool(raw.get("enable_bias", True))
        return MatFormerConfig(
            vocab_size=int(raw["vocab_size"]),
            d_model=d_model,
            n_head=n_head,
            n_kv_head=n_head,
            widths=(int(raw["ffn_dim"]),) * int(raw["num_hidden_layers"]),
            context_length=int(raw["max_position_embeddings"]),
            rms_norm_eps=1e-5,  # fixed in OPT
            family=replace(
                OPT,
                activation=read_activation(raw, "activation_function", "relu"),
                qkv_bias=biased,
                out_bias=biased,
                ffn_bias=biased,
            ),
            tied=bool(raw.get("tie_word_embeddings", True)),
        )

    def write(self, config: MatFormerConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "word_embed_proj_dim": config.d_model,
            "ffn_dim": max(config.widths),
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "max_position_embeddings": config.context_length,
            "activation_function": activation_name(config.family.activation),
            "enable_bias": config.family.ffn_bias,
            "do_layer_norm_before": True,
        }

    def to_ours(self, tensors: Tensors) -> dict[str, Tensor]:
        result = {}
        for name, value in renamed(without_prefixes(tensors, "model.", "decoder."), LAYER_NAMES).items():
            # The final norm and each layer's second one have the same name there.
            norm = "post_attention_layernorm" if name.startswith("layers.") else "norm"
            result[name.replace("final_layer_norm", norm)] = value
        if POSITIONS in result:
            result[POSITIONS] = result[POSITIONS][PADDING_ROWS:]
        return result

    def to_theirs(self, tensors: Tensors) -> dict[str, Tensor]:
        names = {ours: theirs for theirs, ours in LAYER_NAMES.items()}
        names |= {"post_attention_layernorm": "final_layer_norm", "norm": "final_layer_norm"}
        result = renamed(tensors, names)
        positions = result[POSITIONS]
        result[POSITIONS] = torch.cat([positions.new_zeros(PADDING_ROWS, positions.shape[1]), positions])
        return with_prefix(result, "model.decoder.")
