"""A model's weights in the kernels' layout, and the addresses of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lts_ray.models.matformer.matformer import MatFormer, MatFormerBlock
from lts_ray.runtime.kernel_library import LAYER_POINTERS, MODEL_POINTERS
from lts_ray.runtime.panels import PackedPart, alternated, gather, padded, panels, vector


@dataclass(frozen=True)
class PackedModel:
    memory: Tensor
    """Holds everything."""
    addresses: Mapping[tuple[int, str], int | None]
    """By layer (-1: what all layers share) and name; None where the family has no such part."""

    @classmethod
    def of(cls, model: MatFormer) -> PackedModel:
        parts: dict[tuple[int, str], PackedPart | None] = {
            (-1, name): part for name, part in _shared_parts(model).items()
        }
        for index, block in enumerate(model.layers):
            assert isinstance(block, MatFormerBlock)
            parts |= {(index, name): part for name, part in _layer_parts(block).items()}
        memory, starts = gather(list(parts.values()))
        begin = memory.data_ptr()
        addresses = {
            key: None if start is None else begin + 4 * start for key, start in zip(parts, starts, strict=True)
        }
        return cls(memory, addresses)

    def shared(self) -> dict[str, int | None]:
        return {name: self.addresses[-1, name] for name in MODEL_POINTERS}

    def layer(self, index: int) -> dict[str, int | None]:
        return {name: self.addresses[index, name] for name in LAYER_POINTERS}


def _shared_parts(model: MatFormer) -> dict[str, PackedPart | None]:
    rotary = model.rotary
    return {
        "head": panels(model.output_weight),
        "embedding": None if model.tied else vector(model.embed_tokens.weight.detach()),
        "positions": vector(model.embed_positions.weight.detach()) if model.learned else None,
        "cosines": vector(rotary[0]) if rotary.numel() else None,
        "sines": vector(rotary[1]) if rotary.numel() else None,
        "norm": _norm(model.norm, "weight"),
        "norm_bias": _norm(model.norm, "bias"),
    }


def _layer_parts(block: MatFormerBlock) -> dict[str, PackedPart | None]:
    attention, ffn = block.self_attn, block.mlp
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    inward = (ffn.gate_proj, ffn.up_proj) if ffn.gated else (ffn.up_proj,)
    return {
        "attention_norm": _norm(block.input_layernorm, "weight"),
        "attention_norm_bias": _norm(block.input_layernorm, "bias"),
        "qkv": panels(torch.cat([projection.weight.detach() for projection in qkv])),
        "qkv_bias": _bias(
            torch.cat([projection.bias.detach() for projection in qkv]) if attention.q_proj.bias is not None else None
        ),
        "q_norm": vector(attention.q_norm.weight.detach()) if attention.qk_norm else None,
        "k_norm": vector(attention.k_norm.weight.detach()) if attention.qk_norm else None,
        "out": panels(attention.o_proj.weight),
        "out_bias": _bias(attention.o_proj.bias),
        "ffn_norm": _norm(block.post_attention_layernorm, "weight"),
        "ffn_norm_bias": _norm(block.post_attention_layernorm, "bias"),
        "inward": panels(*(projection.weight for projection in inward)),
        "inward_bias": alternated(*(projection.bias for projection in inward)) if ffn.biased else None,
        "down": panels(ffn.down_proj.weight),
        "down_bias": _bias(ffn.down_proj.bias),
    }


def _norm(norm: nn.Module, name: str) -> PackedPart | None:
    values = getattr(norm, name, None)
    return None if values is None else vector(values.detach())


def _bias(bias: Tensor | None) -> PackedPart | None:
    return None if bias is None else vector(bias.detach(), padded(len(bias)))
