"""What a step is told, as views of one piece of memory: filled on the host, copied to the device at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lts_ray.runtime.cuda.bucket import Bucket

ALIGNED = 4
"""Numbers of 4 bytes: every view begins at a multiple of so many, so that one compiled kernel does for all buckets."""

KINDS = {"draws": torch.float64, **dict.fromkeys(("temperatures", "top_ps", "min_ps"), torch.float32)}


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
    singles: Tensor
    """[1]: how many rows attention takes one by one."""
    firsts: Tensor
    """[T], each tile's first row; sizes: its rows, 0: padding."""
    sizes: Tensor
    tokens: Tensor
    """[R]; -1 - i: what the step before has chosen as its i-th."""
    positions: Tensor
    """[R], in the rows' sequences."""
    tables: Tensor
    """[R], where in blocks the row's sequence's begin."""
    places: Tensor
    """[R], in the cache: block · block_tokens + offset."""
    dims: Tensor
    """[R], of d_model."""
    widths: Tensor
    """[L, R], neurons; a layer's row is contiguous, and so are those of heads: query heads."""
    heads: Tensor
    blocks: Tensor
    """The rest of the memory."""

    @classmethod
    def of(cls, memory: Tensor, bucket: Bucket, n_layer: int) -> StepData:
        """memory: [n], int32, that begins at a multiple of 16 bytes."""
        of_wants, of_rows, of_layers = (bucket.wants,), (bucket.rows,), (n_layer, bucket.rows)
        # In the order in which they lie: what needs the most alignment comes first.
        shapes = dict.fromkeys(("draws", "temperatures", "top_ps", "min_ps", "top_ks", "wants"), of_wants)
        shapes |= {"counts": (1,), "singles": (1,)} | dict.fromkeys(("firsts", "sizes"), (bucket.tiles,))
        shapes |= dict.fromkeys(("tokens", "positions", "tables", "places", "dims"), of_rows)
        views, at = {}, 0
        for name, shape in (shapes | dict.fromkeys(("widths", "heads"), of_layers)).items():
            kind = KINDS.get(name, torch.int32)
            padded = (*shape[:-1], -(-shape[-1] // ALIGNED) * ALIGNED)
            stop = at + prod(padded) * kind.itemsize // 4
            views[name] = memory[at:stop].view(kind).view(padded)[..., : shape[-1]]
            at = stop
        return cls(bucket=bucket, **views, blocks=memory[at:])

    @classmethod
    def numbers(cls, bucket: Bucket, n_layer: int) -> int:
        """Of the memory, before the block tables."""
        endless = torch.empty(2**31, dtype=torch.int32, device="meta")
        return int(cls.of(endless, bucket, n_layer).blocks.storage_offset())
