"""Grouped-query attention, with or without rotary positions, whose heads nest: the first h of them are attention of h.

Where keys and values are remembered, those of all heads are, whatever a row's own: a wider submodel may go on from
what a narrower one has left.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lts_ray.models.attend import Attend, Look
from lts_ray.models.extent import Widths, cut, most
from lts_ray.models.few_rows import linear
from lts_ray.models.matformer.matformer_config import MatFormerConfig


def rotary_table(config: MatFormerConfig) -> Tensor:
    """cos and sin of every position's angles. Returns [2, context_length, d_head], float32.

    Where positions are learned there are no angles: [2, 0, d_head].
    """
    length = config.context_length if config.family.positions == "rotary" else 0
    exponents = torch.arange(0, config.d_head, 2, dtype=torch.float32) / config.d_head
    frequencies, scaling = config.rope_theta**-exponents, config.rope_scaling
    if scaling is not None:
        frequencies = scaling.frequencies(frequencies, theta=config.rope_theta)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    table = torch.stack([angles.cos(), angles.sin()])
    return table if scaling is None else table * scaling.magnitude


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn x [B, H, T, d_head] by rotary [2, B, 1, T, d_head]; the halves pair up as in Llama's checkpoints."""
    first, second = x.chunk(2, dim=-1)
    return x * rotary[0] + torch.cat([-second, first], dim=-1) * rotary[1]


class GroupedAttention(nn.Module):
    """Parameter names are those of transformers' Llama, so that its checkpoints need no renaming."""

    def __init__(self, config: MatFormerConfig, n_head: int) -> None:
        """n_head: of this layer."""
        super().__init__()
        self.n_head, self.d_head, self.look = n_head, config.d_head, Look(group=config.head_step)
        family, d_q, d_kv = config.family, n_head * config.d_head, n_head // config.head_step * config.d_head
        self.q_proj = nn.Linear(config.d_model, d_q, bias=family.qkv_bias)
        self.k_proj = nn.Linear(config.d_model, d_kv, bias=family.qkv_bias)
        self.v_proj = nn.Linear(config.d_model, d_kv, bias=family.qkv_bias)
        self.o_proj = nn.Linear(d_q, config.d_model, bias=family.out_bias)
        self.qk_norm = family.qk_norm
        if family.qk_norm:
            self.q_norm = nn.RMSNorm(config.d_head, eps=config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(config.d_head, eps=config.rms_norm_eps)

    def forward(
        self, x: Tensor, rotary: Tensor | None, *, attend: Attend, layer: int, heads: Widths | None = None
    ) -> Tensor:
        """x: [B, T, d_model] or a prefix of it. Returns x's shape.

        rotary: [2, B, 1, T, d_head], or None where the tokens' positions are already in x.
        heads: one number for all rows or one per row; None: all.
        """
        d_model = x.shape[-1]
        own = self.n_head if heads is None else most(heads)
        kept = (self.n_head if attend.remembers else own) // self.look.group
        q = self._heads(x, self.q_proj, own)
        k = self._heads(x, self.k_proj, kept)
        v = self._heads(x, self.v_proj, kept)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary).to(v.dtype), rotate(k, rotary).to(v.dtype)
        y = attend(layer, q, k, v, self.look)
        y = y.transpose(1, 2).flatten(2)  # [B, T, own · d_head]
        if isinstance(heads, tuple):
            y = cut(y, tuple(count * self.d_head for count in heads))
        bias = self.o_proj.bias
        return linear(y, self.o_proj.weight[:d_model, : y.shape[-1]], None if bias is None else bias[:d_model])

    def _heads(self, x: Tensor, projection: nn.Linear, heads: int) -> Tensor:
        """x [B, T, d_model] to the first heads' [B, heads, T, d_head]."""
        stop = heads * self.d_head
        bias = projection.bias
        y = linear(x, projection.weight[:stop, : x.shape[-1]], None if bias is None else bias[:stop])
        return y.view(*x.shape[:2], heads, self.d_head).transpose(1, 2)
