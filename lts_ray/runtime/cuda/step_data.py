"""What a step is told, as views of one piece of memory: filled on the host, copied to the device at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lts_ray.runtime.cuda.bucket import Bucket

ALIGNED = 4
"""Numbers of 4 bytes: every view begins at a multiple of so many, so that one compiled kernel does for all buckets."""


@dataclass(frozen=True, slots=True)
class StepData:
    """int32 where nothing else is said. Of padding rows dims, widths and heads are 0, and places -1.

    R rows, W wants, T tiles of the bucket; L layers.
    """

    bucket: Bucket
    draws: Tensor
    """[W], float64: see Pick, as of the next four, which are float32 but for top_ks."""
    temperatures: Tensor
    top_ps: Tensor
    min_ps: Tensor
    top_ks: Tensor
    wants: Tensor
    """[W], rows whose logits are asked for, in the caller's order; 0 in the padding."""
    counts: Tensor
    """[1]: how many of wants are no padding."""
    tokens: Tensor
    """[R]; -1 - i: what the step before has chosen as its i-th."""
    positions: Tensor
    """[R], in the rows' sequences."""
    places: Tensor
    """[R], in the cache: block · block_tokens + offset."""
    dims: Tensor
    """[R], of d_model."""
    tables: Tensor
    """[R], where in blocks the row's sequence's begin."""
    firsts: Tensor
    """[T], each tile's first row; sizes: its rows, 0: padding."""
    sizes: Tensor
    widths: Tensor
    """[L, R], neurons; a layer's row is contiguous, and so are those of heads: query heads."""
    heads: Tensor
    blocks: Tensor
    """The rest of the memory."""

    @classmethod
    def of(cls, memory: Tensor, bucket: Bucket, n_layer: int) -> StepData:
        """memory: [n], int32, that begins at a multiple of 16 bytes."""
        rows, wants, tiles = bucket.rows, bucket.wants, bucket.tiles
        at = 0

        def view(*shape: int, kind: torch.dtype = torch.int32) -> Tensor:
            nonlocal at
            padded = (*shape[:-1], -(-shape[-1] // ALIGNED) * ALIGNED)
            stop = at + prod(padded) * kind.itemsize // 4
            piece = memory[at:stop].view(kind).view(padded)
            at = stop
            return piece[..., : shape[-1]]

        # In the order in which they lie: what needs the most alignment first, and what differs in length last.
        return cls(
            bucket=bucket,
            draws=view(wants, kind=torch.float64),
            temperatures=view(wants, kind=torch.float32),
            top_ps=view(wants, kind=torch.float32),
            min_ps=view(wants, kind=torch.float32),
            top_ks=view(wants),
            wants=view(wants),
            counts=view(1),
            tokens=view(rows),
            positions=view(rows),
            places=view(rows),
            dims=view(rows),
            tables=view(rows),
            firsts=view(tiles),
            sizes=view(tiles),
            widths=view(n_layer, rows),
            heads=view(n_layer, rows),
            blocks=memory[at:],
        )

    @property
    def n_before_blocks(self) -> int:
        """Numbers of memory before the block tables."""
        return int(self.blocks.storage_offset())
