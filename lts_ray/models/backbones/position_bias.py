"""What T5 adds to attention scores: a learned number per head for how far a key is from the query, in buckets.

Near distances have a bucket each, far ones share buckets that grow with the distance (Raffel et al., 2020, section
2.1). T5's layers share one table. Where layers have different numbers of heads, those with equally many share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor, nn

BUCKETS = 32
FARTHEST = 128
"""Distances from here on are in the last bucket."""


class PositionBias(nn.Module):
    """n_head: of the stack's layers. bidirectional: keys after the query have half of the buckets to themselves."""

    def __init__(self, n_head: Sequence[int], *, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.tables = nn.ModuleDict({str(count): nn.Embedding(BUCKETS, count) for count in sorted(set(n_head))})

    def forward(self, start: int, queries: int, keys: int, *, device: torch.device) -> Mapping[int, Tensor]:
        """By number of heads, [1, n_head, queries, keys]: queries at places start, start + 1, … over keys from 0 on.

        Of a decoder, -inf where a key comes after the query.
        """
        places = torch.arange(start, start + queries, device=device)[:, None]
        offsets = torch.arange(keys, device=device) - places  # [queries, keys]: of the key, seen from the query
        buckets = bucket_of(offsets, bidirectional=self.bidirectional)
        biases = {int(name): table(buckets).permute(2, 0, 1)[None] for name, table in self.tables.items()}
        if self.bidirectional or queries == 1:  # a single query is the last of the keys: none comes after it
            return biases
        return {n_head: bias.masked_fill(offsets > 0, float("-inf")) for n_head, bias in biases.items()}


def bucket_of(offsets: Tensor, *, bidirectional: bool) -> Tensor:
    """The bucket of each offset (key's place minus query's), int64."""
    side = BUCKETS // 2 if bidirectional else BUCKETS
    distances = offsets.abs() if bidirectional else (-offsets).clamp(min=0)
    near = side // 2
    growth = torch.log(distances.clamp(min=1).float() / near) / log(FARTHEST / near)
    far = (near + (growth * (side - near)).long()).clamp(max=side - 1)
    buckets = torch.where(distances < near, distances, far)
    return buckets + side * (offsets > 0) if bidirectional else buckets
