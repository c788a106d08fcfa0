"""A card whose times are known: each kernel of a step takes the longest of its launch, the bytes that it reads, and its
arithmetic, in the buckets and tiles of the real runtime. A tile of nothing but padding is no work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.cuda.bucket import bucket_for
from lts_ray.runtime.cuda.tiles import Tile, piece_rows, step_tiles
from lts_ray.runtime.segment import Segment

LAUNCH_S, HOST_S = 2e-6, 30e-6
BYTES_PER_S, FLOPS = 4.1e12, 790e12
SHARE = {1: 0.1, 16: 0.12, 32: 0.2, 64: 0.35, 128: 0.5}
"""Of the arithmetic, by a tile's rows."""
ITEM = 2


class SyntheticCard:
    """A runtime with a clock of its own."""

    precisions = ("float32",)
    device = torch.device("cuda")

    def __init__(self, config: MatFormerConfig, *, n_blocks: int) -> None:
        self.config, self.n_blocks = config, n_blocks
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def run(self, segments: Sequence[Segment]) -> Tensor:
        self.now += self.step_ms(segments) / 1e3
        return torch.zeros(0)

    def step_ms(self, segments: Sequence[Segment]) -> float:
        config = self.config
        singles = _widest_first([each for each in segments if len(each.tokens) == 1])
        pieces = _widest_first([each for each in segments if len(each.tokens) > 1])
        wants = sum(each.wants_logits for each in segments)
        lengths = [len(each.tokens) for each in pieces]
        bucket = bucket_for(len(singles), lengths, wants, tile=piece_rows(config, ITEM))
        tiles = step_tiles(config, bucket, ITEM)
        of_rows = [_width(each) for each in singles + pieces for _ in each.tokens]
        of_rows += [0] * (bucket.rows - len(of_rows))
        there = of_rows if tiles.norm_apart else [1] * bucket.rows  # small steps do not look which rows are padding
        d_model, heads, groups, d_head = config.d_model, config.n_head, config.n_kv_head, config.d_head

        def product(tile: Tile, columns: int, widths: Sequence[int], rows: Sequence[int]) -> float:
            """widths: of the matrix's other side, what each tile of rows has. rows: 0 where a row is padding."""
            parts = [slice(first, first + tile.rows) for first in range(0, len(rows), tile.rows)]
            inner = [max(widths[each]) if any(rows[each]) else 0 for each in parts]
            work = tile.rows * sum(inner)
            read_s = columns * max(inner) * ITEM / BYTES_PER_S
            return max(LAUNCH_S, read_s, 2 * work * columns / (FLOPS * SHARE[tile.rows]))

        def full(size: int) -> list[int]:
            return [size] * bucket.rows

        layer_s = product(tiles.qkv, (heads + 2 * groups) * d_head, full(d_model), there)
        layer_s += product(tiles.out, d_model, full(heads * d_head), there)
        layer_s += product(tiles.ffn, 2 * d_model, of_rows, of_rows) + product(tiles.down, d_model, of_rows, of_rows)
        layer_s += 2 * LAUNCH_S * tiles.norm_apart
        place_s = 2 * groups * d_head * ITEM / BYTES_PER_S
        if bucket.singles:
            layer_s += max(LAUNCH_S, place_s * sum(each.stop for each in singles))
        if pieces:
            seen = sum(sum(range(each.start + 1, each.stop + 1)) for each in pieces)
            layer_s += max(LAUNCH_S, 4 * heads * d_head * seen / (FLOPS * 0.2))
        total_s = HOST_S + LAUNCH_S + config.n_layer * layer_s
        if wants:
            total_s += 2 * LAUNCH_S + product(tiles.head, config.vocab_size, [d_model] * wants, [1] * wants)
        return 1e3 * total_s


def _width(segment: Segment) -> int:
    return segment.submodel.widths[0]


def _widest_first(segments: Sequence[Segment]) -> list[Segment]:
    return sorted(segments, key=_width, reverse=True)
