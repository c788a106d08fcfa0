"""A way out into the residual: of attention, and of the FFN."""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import fold, folded, follow, prefetch, rows_of, sums, told, weights


@triton.jit(do_not_specialize=["R"])
def add_product(
    a,
    limits,
    dims,
    weight,
    bias,
    gain,
    x,
    half,
    stats,
    R,
    D: tl.constexpr,
    K: tl.constexpr,
    UNIT: tl.constexpr,
    NT: tl.constexpr,
    BIASED: tl.constexpr,
    GAINED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    DOT: tl.constexpr,
    STAGES: tl.constexpr,
    WHOLE: tl.constexpr = False,
    EARLY: tl.constexpr = False,
):
    """x [R, D] (float32) += a [R, K] weightᵀ [K, D] + bias, of each row up to its own dims.

    limits [R]: how much of K each row has, in UNITs (heads of D_HEAD, or neurons). The loop ends at the tile's widest
    row; up to there, and on to a multiple of BK, a is 0 where a row has nothing. WHOLE: every row has all of K. Also
    writes half, x in the weights' type, if GAINED times the gain [D] of the norm that is next, and of x itself
    stats [R, 2, NT], one tile's a program.
    """
    EAGER: tl.constexpr = BM * BN <= 1024  # few enough to be held while the product is made
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    there = rows < R
    own = told(dims + rows, there)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    limit = K
    if not WHOLE:
        limit = tl.max(told(limits + rows, there), axis=0) * UNIT
    prefetch(weight, n, limit, D, K, 4 * BK, EARLY)
    if BIASED:
        offset = tl.load(bias + n, mask=n < D, other=0.0).to(tl.float32)
    if GAINED:
        factor = tl.load(gain + n, mask=n < D, other=0.0).to(tl.float32)
    kept = n[None, :] < own[:, None]
    at = rows[:, None] * D + n[None, :]
    follow(EARLY)
    if EAGER:
        before = tl.load(x + at, mask=kept, other=0.0)
    acc = sums(BM, BN, BK, DOT)
    for start in tl.range(0, limit, BK, num_stages=STAGES):
        k = start + tl.arange(0, BK)
        part = rows_of(a, rows, there, k, K, K % BK == 0)
        acc = fold(acc, part, weights(weight, n, k, D, K, D % BN == 0, K % BK == 0), DOT)
    y = folded(acc, DOT)
    if BIASED:
        y += offset[None, :]
    if not EAGER:
        before = tl.load(x + at, mask=kept, other=0.0)
    y = tl.where(kept, y + before, 0.0)
    tl.store(x + at, y, mask=kept)
    z = y
    if GAINED:
        z = y * factor[None, :]
    tl.store(half + at, z.to(half.dtype.element_ty), mask=kept)
    to = stats + rows * (2 * NT) + tl.program_id(1)
    tl.store(to, tl.sum(y, axis=1), mask=there)
    tl.store(to + NT, tl.sum(y * y, axis=1), mask=there)
