"""Grouped-query attention, with or without rotary positions. Not nested: every width of the model shares it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.decoding.kv_cache import KVCache
from lts_ray.models.config import MatFormerConfig
from lts_ray.models.few_rows import linear


def rotary_table(config: MatFormerConfig) -> Tensor:
    """cos and sin of every position's angles. Returns [2, context_length, d_head], float32.

    Where positions are learned there are no angles: [2, 0, d_head].
    """
    length = config.context_length if config.family.positions == "rotary" else 0
    exponents = torch.arange(0, config.d_head, 2, dtype=torch.float32) / config.d_head
    angles = torch.outer(torch.arange(length).float(), config.rope_theta**-exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn x [B, H, T, d_head] by rotary [2, B, 1, T, d_head]; the halves pair up as in Llama's checkpoints."""
    first, second = x.chunk(2, dim=-1)
    return x * rotary[0] + torch.cat([-second, first], dim=-1) * rotary[1]


class Attention(nn.Module):
    """Parameter names are those of transformers' Llama, so that its checkpoints need no renaming."""

    def __init__(self, config: MatFormerConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.d_head = config.n_head, config.n_kv_head, config.d_head
        family, d_q, d_kv = config.family, config.n_head * config.d_head, config.n_kv_head * config.d_head
        self.q_proj = nn.Linear(config.d_model, d_q, bias=family.qkv_bias)
        self.k_proj = nn.Linear(config.d_model, d_kv, bias=family.qkv_bias)
        self.v_proj = nn.Linear(config.d_model, d_kv, bias=family.qkv_bias)
        self.o_proj = nn.Linear(d_q, config.d_model, bias=family.out_bias)
        self.qk_norm = family.qk_norm
        if family.qk_norm:
            self.q_norm = nn.RMSNorm(config.d_head, eps=config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(config.d_head, eps=config.rms_norm_eps)

    def forward(
        self, x: Tensor, rotary: Tensor | None, *, mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        """x: [B, T, d_model]. Returns x's shape.

        rotary: [2, B, 1, T, d_head], or None where the tokens' positions are already in x.
        mask: [B, 1, T, S], or None: causal attention without a past, or one token a row that sees all there is.
        """
        rows, length, _ = x.shape
        q = self._heads(x, self.q_proj, self.n_head)
        k = self._heads(x, self.k_proj, self.n_kv_head)
        v = self._heads(x, self.v_proj, self.n_kv_head)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary).to(v.dtype), rotate(k, rotary).to(v.dtype)
        if cache is not None:
            k, v = append(cache, layer, k, v)
        causal = mask is None and length > 1
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
        return linear(y.transpose(1, 2).reshape(rows, length, -1), self.o_proj.weight, self.o_proj.bias)

    def _heads(self, x: Tensor, projection: nn.Linear, n_head: int) -> Tensor:
        """x [B, T, d_model] to [B, n_head, T, d_head]."""
        y = linear(x, projection.weight, projection.bias)
        return y.view(*x.shape[:2], n_head, self.d_head).transpose(1, 2)


def append(cache: KVCache, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write k, v [B, n_kv_head, T, d_head] behind each row's tokens; return all keys and values up to the longest row.

    Places past a shorter row's end hold what an earlier sequence left there: the mask hides them.
    """
    keys, values = cache.keys[layer], cache.values[layer]
    length = k.shape[2]
    starts = cache.lengths.tolist()
    end = max(starts) + length
    if min(starts) == max(starts):
        keys[:, :, starts[0] : end] = k
        values[:, :, starts[0] : end] = v
    elif length == 1:
        rows = torch.arange(k.shape[0], device=k.device)
        places = cache.lengths.to(k.device)
        keys[rows, :, places] = k[:, :, 0]
        values[rows, :, places] = v[:, :, 0]
    else:
        for row, start in enumerate(starts):
            keys[row, :, start : start + length] = k[row]
            values[row, :, start : start + length] = v[row]
    return keys[:, :, :end], values[:, :, :end]
