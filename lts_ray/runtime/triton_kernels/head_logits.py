"""The last norm and the output matrix, for the rows whose logits are asked for."""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import fold, folded, follow, normed, row_norm, rows_of, sums, weights


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
    follow(EARLY)
    asked = tl.program_id(0) * BM + tl.arange(0, BM)
    there = asked < tl.load(count)
    if tl.program_id(0) * BM >= tl.load(count):
        return
    rows = tl.load(wants + asked, mask=there, other=0)
    own = tl.load(dims + rows, mask=there, other=0)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    limit = D if WHOLE else tl.max(own, axis=0)
    LATE: tl.constexpr = True and not LAYER_NORM and half.dtype.element_ty != tl.float16  # whose range is too small
    if LATE:
        mean, scale = own, own
    else:
        mean, scale = row_norm(stats, rows, there, own, eps, NT, LAYER_NORM)
    acc = sums(BM, BN, BK, DOT)
    for start in tl.range(0, limit, BK, num_stages=STAGES):
        k = start + tl.arange(0, BK)
        a = rows_of(half, rows, there, k, D, D % BK == 0)
        a = normed(a, own, k, mean, scale, norm, norm_bias, D, True, LAYER_NORM, LATE)
        acc = fold(acc, a, weights(weight, n, k, V, D, V % BN == 0, D % BK == 0), DOT)
    y = folded(acc, DOT)
    if LATE:
        mean, scale = row_norm(stats, rows, there, own, eps, NT, LAYER_NORM)
        y = y * scale[:, None]
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
