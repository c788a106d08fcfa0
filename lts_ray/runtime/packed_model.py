"""A model's weights in the kernels' layout, and the addresses of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lts_ray.models.matformer.matformer import MatFormer, MatFormerBlock
from lts_ray.precision import QUANTISED
from lts_ray.quantisation.quantised_matrix import QuantisedMatrix, round_to_nearest
from lts_ray.quantisation.quantised_weights import QuantisedWeights, form_of
from lts_ray.runtime.kernel_library import (
    LAYER_MATRICES,
    LAYER_POINTERS,
    MATRIX_POINTERS,
    MODEL_MATRICES,
    MODEL_POINTERS,
    KernelMatrix,
)
from lts_ray.runtime.panels import PackedPart, alternated, codes_in_panels, gather, padded, panels, vector

Key = tuple[int, str, str]
"""Layer (-1: what all layers share), name, and of a matrix which of its forms."""


@dataclass(frozen=True)
class PackedModel:
    memory: Tensor
    """Holds everything."""
    addresses: Mapping[Key, int | None]
    """None where the family has no such part, or the form is not served."""

    @classmethod
    def of(cls, model: MatFormer, precisions: Sequence[str], quantised: QuantisedWeights | None = None) -> PackedModel:
        """precisions: whose forms it holds. quantised: the matrices in 8 and 4 bits; None: rounded to the nearest."""

        def matrix(index: int, name: str, *parts: str) -> dict[Key, PackedPart | None]:
            """parts: the parameters of the model that the matrix is made of."""
            served = {form_of(parts[0], each) if each in QUANTISED else each for each in precisions}
            forms = _forms([model.get_parameter(part) for part in parts], parts, served, quantised or {})
            return {(index, name, form): forms.get(form) for form in MATRIX_POINTERS}

        parts: dict[Key, PackedPart | None] = {}
        for name, part in _shared_parts(model).items():
            parts[-1, name, ""] = part
        parts |= matrix(-1, "head", "embed_tokens.weight" if model.tied else "lm_head.weight")
        if not model.tied:
            parts |= matrix(-1, "embedding", "embed_tokens.weight")
        for index, block in enumerate(model.layers):
            assert isinstance(block, MatFormerBlock)
            at = f"layers.{index}"
            parts |= {(index, name, ""): part for name, part in _layer_parts(block).items()}
            parts |= matrix(index, "qkv", *(f"{at}.self_attn.{each}_proj.weight" for each in "qkv"))
            parts |= matrix(index, "out", f"{at}.self_attn.o_proj.weight")
            inward = ("gate", "up") if block.mlp.gated else ("up",)
            parts |= matrix(index, "inward", *(f"{at}.mlp.{each}_proj.weight" for each in inward))
            parts |= matrix(index, "down", f"{at}.mlp.down_proj.weight")
        memory, starts = gather(list(parts.values()))
        begin = memory.data_ptr()
        addresses = {
            key: None if start is None else begin + 4 * start for key, start in zip(parts, starts, strict=True)
        }
        if model.tied:
            addresses |= {(-1, "embedding", form): addresses[-1, "head", form] for form in MATRIX_POINTERS}
        return cls(memory, addresses)

    def shared(self) -> dict[str, int | KernelMatrix | None]:
        return self._fields(-1, MODEL_MATRICES, MODEL_POINTERS)

    def layer(self, index: int) -> dict[str, int | KernelMatrix | None]:
        return self._fields(index, LAYER_MATRICES, LAYER_POINTERS)

    def _fields(
        self, index: int, matrices: Sequence[str], names: Sequence[str]
    ) -> dict[str, int | KernelMatrix | None]:
        fields: dict[str, int | KernelMatrix | None] = {name: self.addresses[index, name, ""] for name in names}
        for name in matrices:
            fields[name] = KernelMatrix(**{form: self.addresses[index, name, form] for form in MATRIX_POINTERS})
        return fields


def _forms(
    matrices: Sequence[Tensor], names: Sequence[str], precisions: Set[str], quantised: QuantisedWeights
) -> dict[str, PackedPart]:
    """queries, keys and values lie one behind the other; gate and up, which are of one shape, panel beside panel."""
    joined = len(matrices) == 3
    forms: dict[str, PackedPart] = {}

    def floats() -> Sequence[Tensor]:
        return [torch.cat([each.detach() for each in matrices])] if joined else matrices

    if "float32" in precisions:
        forms["plain"] = panels(*floats())
    if "bfloat16" in precisions:
        forms["half"] = panels(*floats(), dtype=torch.bfloat16)
    if precisions.isdisjoint(QUANTISED):
        return forms
    rounded = [quantised.get(name) or round_to_nearest(each) for name, each in zip(names, matrices, strict=True)]
    if joined:
        rounded = [
            QuantisedMatrix(torch.cat([each.codes for each in rounded]), torch.cat([each.scales for each in rounded]))
        ]
    packed = codes_in_panels(rounded)
    forms |= {"upper": packed.upper, "scales": packed.scales}
    if "int8" in precisions:
        forms["lower"] = packed.lower
    return forms


def _shared_parts(model: MatFormer) -> dict[str, PackedPart | None]:
    rotary = model.rotary
    return {
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
        "qkv_bias": _bias(
            torch.cat([projection.bias.detach() for projection in qkv]) if attention.q_proj.bias is not None else None
        ),
        "q_norm": vector(attention.q_norm.weight.detach()) if attention.qk_norm else None,
        "k_norm": vector(attention.k_norm.weight.detach()) if attention.qk_norm else None,
        "out_bias": _bias(attention.o_proj.bias),
        "ffn_norm": _norm(block.post_attention_layernorm, "weight"),
        "ffn_norm_bias": _norm(block.post_attention_layernorm, "bias"),
        "inward_bias": alternated(*(projection.bias for projection in inward)) if ffn.biased else None,
        "down_bias": _bias(ffn.down_proj.bias),
    }


def _norm(norm: nn.Module, name: str) -> PackedPart | None:
    values = getattr(norm, name, None)
    return None if values is None else vector(values.detach())


def _bias(bias: Tensor | None) -> PackedPart | None:
    return None if bias is None else vector(bias.detach(), padded(len(bias)))
