"""Attention that knows how far back a token is, not where it stands (Dai et al., 2019, section 3.3).

The score of query i and key j is (q_i + u)·k_j + (q_i + v)·W R_(i-j). Keys hold no position, so those of earlier
segments stay valid in a cache for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone_cache import BackboneCache
from lts_ray.models.backbones.causal_attention import split_heads


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a segment of T tokens sees: `memory` tokens before it, and itself; S = memory + T. Used by every layer."""

    start: int
    """The segment's first place in the cache."""
    memory: int
    distances: Tensor
    """[S + 1, d_model], as `distance_table` has them."""
    mask: Tensor
    """[T, S], -inf where a key comes after the query, else 0."""


def distance_table(distances: int, d_model: int) -> Tensor:
    """Sinusoids of the distances from `distances` - 1 down to -1; no key is -1 away: `shift` needs the extra row.

    Returns [distances + 1, d_model], float32.
    """
    frequencies = 10_000.0 ** -(torch.arange(0, d_model, 2, dtype=torch.float32) / d_model)
    angles = torch.outer(torch.arange(distances - 1, -2, -1, dtype=torch.float32), frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def shift(scores: Tensor) -> Tensor:
    """From scores by distance to scores by key, as a view: no element moves.

    scores: [B, H, T, S + 1]; column p of row i is of distance S - 1 - p. Returns [B, H, T, S], column j of row i of
    distance memory + i - j, for the keys up to the query; what stands at later keys has no meaning.
    Proof: that distance is in column p = T - 1 - i + j, at i (S + 1) + p = T - 1 + i S + j of the flattened scores:
    rows of S behind the first T - 1 elements.
    """
    rows, n_head, length, columns = scores.shape
    kept = scores.flatten(2)[..., length - 1 : length - 1 + length * (columns - 1)]
    return kept.view(rows, n_head, length, columns - 1)


class RelativeAttention(nn.Module):
    """content_bias, distance_bias: u and v. distances: W."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head, self.d_head = n_head, d_model // n_head
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.distances = nn.Linear(d_model, d_model, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(n_head, self.d_head))
        self.distance_bias = nn.Parameter(torch.zeros(n_head, self.d_head))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, window: Window, *, cache: BackboneCache | None, layer: int) -> Tensor:
        """x: [B, T, d_model]. Returns x's shape."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if cache is not None:
            k, v = _remember(cache, layer, window, k, v)
        q, k, v = (split_heads(part, self.n_head) for part in (q, k, v))  # [B, n_head, T or S, d_head]
        by_distance = (q + self.distance_bias[:, None]) * self.d_head**-0.5
        # The sum is also a copy, which GPU kernels need: the view's rows begin at odd addresses.
        bias = shift(self._distance_scores(by_distance, window.distances)) + window.mask
        y = functional.scaled_dot_product_attention(q + self.content_bias[:, None], k, v, attn_mask=bias)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return attended

    def _distance_scores(self, q: Tensor, distances: Tensor) -> Tensor:
        """q·(W R) of every query and distance. q: [B, H, T, d_head]; distances: [S + 1, D]. Returns [B, H, T, S + 1].

        A few queries are cheaper to take through W than all distances: a decode step would spend most of its time so.
        """
        queries, rows, d_model = q.shape[0] * q.shape[2], len(distances), self.n_head * self.d_head
        if queries * (d_model + self.n_head * rows) < rows * (d_model + queries):  # multiplications, over d_model
            weight = self.distances.weight.view(self.n_head, self.d_head, d_model)
            return (q @ weight) @ distances.T
        projected: Tensor = self.distances(distances).view(rows, self.n_head, self.d_head)
        return q @ projected.permute(1, 2, 0)


def make_room(cache: BackboneCache, tokens: Tensor, memory_length: int) -> int:
    """Where tokens [B, T] go in the cache. A full cache first moves the memory to its front and forgets the rest."""
    rows, length = tokens.shape
    start = cache.common_length(rows, "Transformer-XL")
    if start + length <= cache.capacity:
        return start
    kept = min(start, memory_length)
    if kept + length > cache.capacity:
        raise LtsRayError(
            f"{length} tokens and the {kept} before them do not fit a cache of {cache.capacity} tokens; "
            f"make the cache longer or give fewer tokens at a time"
        )
    for block in (cache.keys, cache.values):
        block[:, :, :kept] = block[:, :, start - kept : start].clone()  # the two may overlap
    cache.lengths.fill_(kept)
    return kept


def _remember(cache: BackboneCache, layer: int, window: Window, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write k, v [B, T, d_model] to the cache; return those that the segment sees, [B, S, d_model].

    Gradients flow into the segment's own keys and values, never into the memory's.
    """
    first, end = window.start - window.memory, window.start + k.shape[1]
    seen = []
    for block, new in ((cache.keys[layer], k), (cache.values[layer], v)):
        together = torch.cat([block[:, first : window.start], new], dim=1) if new.requires_grad else block[:, first:end]
        block[:, window.start : end] = new.detach()
        seen.append(together)
    return seen[0], seen[1]
