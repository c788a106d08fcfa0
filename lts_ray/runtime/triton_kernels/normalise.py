"""A norm on its own: for steps of many rows, whose products are then of plain tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import follow, normed, row_norm, row_sums, rows_of, told


@triton.jit
def normalise(
    half,
    stats,
    dims,
    norm,
    norm_bias,
    out,
    eps,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    NT: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    GAINED: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    """Row = program. half [R, D] to out [R, D], 0 past each row's own dims. GAINED: half has the gains already."""
    rows = tl.program_id(0) + tl.arange(0, 1)
    own = told(dims + rows, rows >= 0)
    follow(EARLY)
    k = tl.arange(0, D_PADDED)
    squares, sums = row_sums(stats, rows, own > 0, NT, LAYER_NORM)
    y = rows_of(half, rows, own >= 0, k, D, D == D_PADDED)
    scale, mean = row_norm(squares, sums, own, eps, LAYER_NORM)
    y = normed(y, own, k, scale, mean, norm, norm_bias, D, LAYER_NORM, GAINED)
    tl.store(out + rows[:, None] * D + k[None, :], y, mask=(k < D)[None, :])
