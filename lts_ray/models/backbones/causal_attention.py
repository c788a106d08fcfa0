"""Attention over absolute positions, as GPT-2 and OPT have it, and where a batch's tokens stand in a cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_cache import BackboneCache


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the tokens of one forward pass stand; found once, used by every layer."""

    positions: Tensor
    """[T], or [B, T] where rows differ."""
    starts: tuple[int, ...]
    """Tokens that each row holds already; one 0 without a cache."""
    mask: Tensor | None
    """[T, S] or [B, 1, T, S], true where a token may look; None: every token up to its own place."""
    end: int
    """S, the keys of the longest row."""


def find_places(tokens: Tensor, cache: BackboneCache | None, context_length: int | None) -> Places:
    """tokens: [B, T]. Raises LtsRayError when a row would pass the context length (None: no limit) or the cache."""
    rows, length = tokens.shape
    steps = torch.arange(length, device=tokens.device)
    starts = (0,) if cache is None else tuple(cache.lengths.tolist())
    if cache is not None and len(starts) != rows:
        raise LtsRayError(f"{rows} rows of tokens do not fit a cache of {len(starts)} rows")
    end = max(starts) + length
    for limit in (context_length, cache.capacity if cache is not None else None):
        if limit is not None and end > limit:
            raise LtsRayError(f"{end} tokens do not fit: the context is {limit} tokens")
    keys = torch.arange(end, device=tokens.device)
    mask = None
    if min(starts) == max(starts):
        positions = steps + starts[0]
        if 1 < length < end:  # a single token sees all there is, and without a past plain causal attention will do
            mask = keys <= positions[:, None]
    else:
        positions = torch.tensor(starts, device=tokens.device)[:, None] + steps
        mask = (keys <= positions[..., None])[:, None]
    return Places(positions=positions, starts=starts, mask=mask, end=end)


class CausalAttention(nn.Module):
    """Queries, keys and values come from one matrix, in this order."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, places: Places, *, cache: BackboneCache | None, layer: int) -> Tensor:
        """x: [B, T, d_model]. Returns x's shape."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if cache is not None:
            k, v = _append(cache, layer, places, k, v)
        q, k, v = (split_heads(part, self.n_head) for part in (q, k, v))
        is_causal = places.mask is None and x.shape[1] > 1
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=places.mask, is_causal=is_causal)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return attended


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """[B, S, d_model] as [B, n_head, S, d_head]."""
    return x.view(*x.shape[:2], n_head, -1).transpose(1, 2)


def _append(cache: BackboneCache, layer: int, places: Places, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write k, v [B, T, d_model] behind each row's tokens; return all keys and values up to the longest row.

    Places past a shorter row's end hold what an earlier sequence left there: the mask hides them.
    """
    if places.positions.dim() == 1:
        return cache.write(layer, places.starts[0], k, v)
    keys, values = cache.keys[layer], cache.values[layer]
    rows = torch.arange(len(k), device=k.device)[:, None]
    keys[rows, places.positions] = k
    values[rows, places.positions] = v
    return keys[:, : places.end], values[:, : places.end]
