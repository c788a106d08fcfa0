"""The last norm and the output matrix, for the rows whose logits are asked for."""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import follow, normed_products, prefetch, told


@triton.jit
def head_logits(
    half,
    stats,
    dims,
    wants,
    count,
    norm,
    norm_bias,
    weight,
    logits,
    tops,
    top_ids,
    eps,
    D: tl.constexpr,
    V: tl.constexpr,
    N_TOPS: tl.constexpr,
    NT: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    GAINED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    DOT: tl.constexpr,
    STAGES: tl.constexpr,
    WHOLE: tl.constexpr = False,
    EARLY: tl.constexpr = False,
):
    """wants [W]: rows of half, of which the first `count` (one number in memory) count. weight: [V, D].

    Writes logits [W, V] (float32), and of each tile of BN its largest and the first id that has it: tops and top_ids,
    [W, N_TOPS]. A tile with a logit that is no number has one for its largest.
    """
    asked = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    number = told(count, True)
    there = asked < number
    rows = told(wants + asked, there)
    own = told(dims + rows, there)
    limit = D if WHOLE else tl.max(own, axis=0)
    prefetch(weight, n, limit, V, D, BK, EARLY)
    follow(EARLY)
    if tl.program_id(0) * BM >= number:
        return
    y, _ = normed_products(
        half, stats, rows, there, own, limit, norm, norm_bias, weight, n, weight, n, eps,
        V, D, NT, True, LAYER_NORM, GAINED, False, V % BN == 0, BM, BN, BK, DOT, STAGES,
    )  # fmt: skip
    inside = n < V
    to = logits + asked.to(tl.int64)[:, None] * V + n[None, :]
    tl.store(to, y, mask=there[:, None] & inside[None, :])
    is_number = y == y  # noqa: PLR0124
    broken = tl.sum(tl.where(inside[None, :] & ~is_number, 1, 0), axis=1) > 0
    y = tl.where(inside[None, :] & is_number, y, -float("inf"))
    largest, at = tl.max(y, axis=1, return_indices=True)
    place = asked * N_TOPS + tl.program_id(1)
    tl.store(tops + place, tl.where(broken, float("nan"), largest), mask=there)
    tl.store(top_ids + place, tl.program_id(1) * BN + at, mask=there)
