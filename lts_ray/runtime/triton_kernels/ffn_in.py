"""The way into a nested FFN: norm, gate and up, activation; of each row its own first neurons."""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import activated, follow, normed_products, prefetch, told


@triton.jit(do_not_specialize=["R"])
def ffn_in(
    half,
    stats,
    dims,
    widths,
    norm,
    norm_bias,
    gate,
    up,
    gate_bias,
    up_bias,
    inner,
    eps,
    R,
    D: tl.constexpr,
    F: tl.constexpr,
    NT: tl.constexpr,
    NORM: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    GAINED: tl.constexpr,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PAD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    DOT: tl.constexpr,
    STAGES: tl.constexpr,
    WHOLE: tl.constexpr = False,
    EARLY: tl.constexpr = False,
):
    """half [R, D] to inner [R, F]: of each row its first widths[row], and 0 up to where `add_product` reads, a multiple
    of PAD behind the tile's widest row. gate, up: [F, D].

    A program whose neurons no row of its tile has ends at once: so one grid serves every width. WHOLE: every row has
    all of D, and the loop need not wait for what its rows have.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    there = rows < R
    width = told(widths + rows, there)
    own = told(dims + rows, there)
    limit = D if WHOLE else tl.max(own, axis=0)
    widest, first = tl.max(width, axis=0), tl.program_id(1) * BN
    n = first + tl.arange(0, BN)
    end = tl.cdiv(widest, PAD) * PAD
    if (first >= end) & (first > 0):  # the first tile of columns always waits
        return
    if first < widest:
        prefetch(up, n, limit, F, D, 4 * BK, EARLY)
        if GATED:
            prefetch(gate, n, limit, F, D, 4 * BK, EARLY)
    follow(EARLY)
    to = inner + rows[:, None] * F + n[None, :]
    inside = there[:, None] & (n < F)[None, :]
    if first >= widest:
        if first < end:
            tl.store(to, tl.zeros((BM, BN), inner.dtype.element_ty), mask=inside)
        return
    y, z = normed_products(
        half, stats, rows, there, own, limit, norm, norm_bias, up, n, gate, n, eps,
        F, D, NT, NORM, LAYER_NORM, GAINED, GATED, F % BN == 0, BM, BN, BK, DOT, STAGES,
    )  # fmt: skip
    if BIASED:
        y += tl.load(up_bias + n, mask=n < F, other=0.0).to(tl.float32)[None, :]
    if GATED:
        if BIASED:
            z += tl.load(gate_bias + n, mask=n < F, other=0.0).to(tl.float32)[None, :]
        y = y * activated(z, ACTIVATION)
    else:
        y = activated(y, ACTIVATION)
    y = tl.where(n[None, :] < width[:, None], y, 0.0)
    tl.store(to, y.to(inner.dtype.element_ty), mask=inside)
