"""A model's weights as the kernels read them: the model's own memory, none of it held twice.

Matrices lie as torch's Linear has them, [out, in]. Where a family lacks a part its field is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from lts_ray.models.matformer.grouped_attention import rotary_table
from lts_ray.models.matformer.matformer import MatFormer, MatFormerBlock
from lts_ray.models.matformer.matformer_config import MatFormerConfig

Pair = tuple[Tensor | None, Tensor | None]
NONE: Pair = (None, None)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """F: the layer's full width, in neurons, which may differ from layer to layer."""

    norm: Tensor
    """[D], before attention; ffn_norm: before the FFN."""
    norm_bias: Tensor | None
    qkv: Tensor
    """[(n_head + 2 · n_kv_head) · d_head, D]: all queries' heads, then the keys', then the values'."""
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    """[d_head], as k_norm."""
    k_norm: Tensor | None
    out: Tensor
    """[D, n_head · d_head]"""
    out_bias: Tensor | None
    ffn_norm: Tensor
    ffn_norm_bias: Tensor | None
    gate: Tensor | None
    """[F, D], as up."""
    gate_bias: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    """[D, F]"""
    down_bias: Tensor | None

    @classmethod
    def of(cls, block: MatFormerBlock) -> LayerWeights:
        attention, ffn = block.self_attn, block.mlp
        q_and_k: Pair = NONE
        if attention.qk_norm:
            q_and_k = (attention.q_norm.weight.detach(), attention.k_norm.weight.detach())
        gate: Pair = _parts(ffn.gate_proj) if ffn.gated else NONE
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        return cls(
            *_parts(block.input_layernorm),
            _joined([each.weight for each in projections]),
            None if attention.q_proj.bias is None else _joined([each.bias for each in projections]),
            *q_and_k,
            *_parts(attention.o_proj),
            *_parts(block.post_attention_layernorm),
            *gate,
            *_parts(ffn.up_proj),
            *_parts(ffn.down_proj),
        )


@dataclass(frozen=True, slots=True)
class CudaWeights:
    config: MatFormerConfig
    embedding: Tensor
    """[vocab_size, D]"""
    position_table: Tensor | None
    """[context_length, D] where positions are learned."""
    rotary: Tensor | None
    """[2, context_length, d_head], float32, where positions rotate: cosines, then sines."""
    layers: Sequence[LayerWeights]
    norm: Tensor
    norm_bias: Tensor | None
    head: Tensor
    """[vocab_size, D]: the embedding where the two are tied."""

    @classmethod
    def of(cls, model: MatFormer) -> CudaWeights:
        """The model stays what it is, but that projections of queries, keys and values become parts of one tensor."""
        norm, norm_bias = _parts(model.norm)
        return cls(
            config=model.config,
            embedding=model.embed_tokens.weight.detach(),
            position_table=model.embed_positions.weight.detach() if model.learned else None,
            # Not the model's own, which has the weights' dtype.
            rotary=None if model.learned else rotary_table(model.config).to(model.weight.device),
            layers=[LayerWeights.of(cast(MatFormerBlock, block)) for block in model.layers],
            norm=norm,
            norm_bias=norm_bias,
            head=model.output_weight.detach(),
        )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One behind the other in one piece of memory, which becomes the parts' own: [sum of their rows, …]."""
    first, ends = parts[0], [part.data_ptr() + part.nbytes for part in parts]
    rows = sum(len(part) for part in parts)
    storage = first.untyped_storage()
    after = storage.data_ptr() + storage.nbytes()
    # Another runtime of this model may have joined them already.
    if [part.data_ptr() for part in parts[1:]] == ends[:-1] and ends[-1] <= after and first.is_contiguous():
        return first.detach().as_strided((rows, *first.shape[1:]), first.stride())
    memory = torch.cat([part.detach() for part in parts])
    for part, piece in zip(parts, torch.split(memory, [len(part) for part in parts]), strict=True):
        part.data = piece
    return memory


def _parts(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, of a norm or a projection."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    return weight.detach(), None if bias is None else bias.detach()
