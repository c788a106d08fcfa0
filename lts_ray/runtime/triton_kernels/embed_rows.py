"""The first rows of a step: what its tokens, and where they are learned its places, are embedded as."""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import follow


@triton.jit
def embed_rows(
    tokens,
    positions,
    dims,
    chosen,
    embedding,
    position_table,
    gain,
    x,
    half,
    stats,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    NT: tl.constexpr,
    LEARNED: tl.constexpr,
    GAINED: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    """Row = program. tokens [R]: -1 - place for the token that the step before chose as its place-th, in `chosen`.

    Writes x [R, D] (float32), half [R, D] and stats [R, 2, NT]: all in the first of its tiles.
    """
    follow(EARLY)
    row = tl.program_id(0)
    dim = tl.load(dims + row)
    token = tl.load(tokens + row)
    if token < 0:
        token = tl.maximum(tl.load(chosen - 1 - token), 0)  # what is no token is not looked at by anyone
    k = tl.arange(0, D_PADDED)
    own = k < dim
    y = tl.load(embedding + token.to(tl.int64) * D + k, mask=own, other=0.0)
    if LEARNED:
        y += tl.load(position_table + tl.load(positions + row).to(tl.int64) * D + k, mask=own, other=0.0)
    y = y.to(tl.float32)
    tl.store(x + row * D + k, y, mask=k < D)
    z = y
    if GAINED:
        z = y * tl.load(gain + k, mask=own, other=0.0).to(tl.float32)
    tl.store(half + row * D + k, z.to(half.dtype.element_ty), mask=k < D)
    NT_PADDED: tl.constexpr = triton.next_power_of_2(NT)
    tile = tl.arange(0, NT_PADDED)
    at = stats + row * (2 * NT) + tile
    tl.store(at, tl.where(tile == 0, tl.sum(y), 0.0), mask=tile < NT)
    tl.store(at + NT, tl.where(tile == 0, tl.sum(y * y), 0.0), mask=tile < NT)
