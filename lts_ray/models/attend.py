"""Where a pass's queries find keys and values: among its own tokens, or in a cache as well.

The seam between a model, which projects, and what remembers: a model runs the same whether its past is nothing, a
`KVCache`, or the pages of an engine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.models.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Look:
    """How the queries of a layer look at keys; the same in every pass."""

    group: int = 1
    """Queries that share a key. Where there are fewer queries than the keys serve, the first keys are their own."""
    window: int | None = None
    """How many tokens a token sees, itself included; None: all before it."""
    scale: float | None = None
    """Of the products; None: 1 / √d_head."""


PLAIN = Look()


class Attend(Protocol):
    """Of one pass over tokens [B, T]."""

    @property
    def remembers(self) -> bool:
        """Whether later passes, maybe of wider rows, will look at the keys and values: then all heads' are wanted."""
        ...

    def remember(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep k and v, [B, n_kv_head, T, d_head], as `layer`'s, though no query asks for them."""
        ...

    def __call__(self, layer: int, q: Tensor, k: Tensor | None, v: Tensor | None, look: Look = PLAIN) -> Tensor:
        """What the queries find. Returns q's shape.

        q: [B, n_head, T, d_head]. k, v: [B, n_kv_head, T, d_head], of the same tokens, remembered as `layer`'s; None:
        that layer's, of an earlier call of this pass.
        """
        ...


class OwnTokens:
    """Every token sees those of its row up to itself, and no pass remembers anything."""

    remembers = False

    def __init__(self, donors: Collection[int] = ()) -> None:
        """donors: layers whose keys later ones look at. Others' are let go: all would be as large as a cache."""
        self._donors = donors
        self._written: dict[int, tuple[Tensor, Tensor]] = {}

    def remember(self, layer: int, k: Tensor, v: Tensor) -> None:
        if layer in self._donors:
            self._written[layer] = (k, v)

    def __call__(self, layer: int, q: Tensor, k: Tensor | None, v: Tensor | None, look: Look = PLAIN) -> Tensor:
        if k is not None and v is not None:
            self.remember(layer, k, v)
        else:
            k, v = self._written[layer]
        keys, values = (x[:, : q.shape[1] // look.group] for x in (k, v))
        length = q.shape[2]
        mask = None
        if look.window is not None and look.window < length:
            places = torch.arange(length, device=q.device)
            mask = _visible(places[:, None], places, look.window)
        return _found(q, keys, values, mask, look.scale)


class CachedTokens:
    """Tokens go behind what each row of the cache holds, and see it. Its lengths are the caller's to advance."""

    remembers = True

    def __init__(self, cache: KVCache, positions: Tensor) -> None:
        """positions: [B, T], of the tokens of this pass."""
        self._cache, self._positions = cache, positions
        starts = cache.lengths.tolist()
        length = positions.shape[1]
        self._end = max(starts) + length
        self._mask: Tensor | None = None
        if self._end > length and (length > 1 or min(starts) < max(starts)):
            keys = torch.arange(self._end, device=positions.device)
            self._mask = (keys <= positions[..., None])[:, None]  # [B, 1, T, S]

    def remember(self, layer: int, k: Tensor, v: Tensor) -> None:
        _append(self._cache, layer, k, v)

    def __call__(self, layer: int, q: Tensor, k: Tensor | None, v: Tensor | None, look: Look = PLAIN) -> Tensor:
        if k is not None and v is not None:
            self.remember(layer, k, v)
        used = q.shape[1] // look.group
        keys, values = (x[layer, :, :used, : self._end] for x in (self._cache.keys, self._cache.values))
        mask = self._mask
        if look.window is not None and look.window < self._end:
            places = torch.arange(self._end, device=q.device)
            mask = _visible(self._positions[..., None], places, look.window)[:, None]
        return _found(q, keys, values, mask, look.scale)


def _found(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """What the queries [B, n_head, T, d_head] find among keys and values [B, n_kv_head, S, d_head]; None: causal."""
    causal = mask is None and q.shape[2] > 1
    if keys.shape[1] < q.shape[1] and not takes_shared_keys(q, mask):
        keys, values = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (keys, values))
    return functional.scaled_dot_product_attention(
        q, keys, values, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True
    )


def takes_shared_keys(q: Tensor, mask: Tensor | None) -> bool:
    """Whether torch has a fused kernel for queries that share keys: else it would write down all their products."""
    return not q.is_cuda or (mask is None and q.dtype != torch.float32)


def _visible(own: Tensor, keys: Tensor, window: int) -> Tensor:
    """Of each key's place, whether a token at its `own` sees it."""
    return (keys <= own) & (keys > own - window)


def _append(cache: KVCache, layer: int, k: Tensor, v: Tensor) -> None:
    """Write k, v [B, n_kv_head, T, d_head] behind each row's tokens; a layer may have fewer heads than the cache.

    Places past a shorter row's end hold what an earlier sequence left there: the mask hides them.
    """
    heads, length = k.shape[1:3]
    keys, values = cache.keys[layer, :, :heads], cache.values[layer, :, :heads]
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
