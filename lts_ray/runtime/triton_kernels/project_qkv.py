"""Norm, queries, keys and values with their biases, norms and rotations; keys and values go into the paged cache."""

from __future__ import annotations

import triton
import triton.language as tl

from lts_ray.runtime.triton_kernels.product import follow, normed_products, prefetch, told


@triton.jit(do_not_specialize=["R"])
def project_qkv(
    half,
    stats,
    dims,
    heads,
    positions,
    places,
    norm,
    norm_bias,
    weight,
    bias,
    q_norm,
    k_norm,
    rotary,
    q,
    keys,
    values,
    eps,
    R,
    D: tl.constexpr,
    N_HEAD: tl.constexpr,
    N_KV: tl.constexpr,
    D_HEAD: tl.constexpr,
    CONTEXT: tl.constexpr,
    NT: tl.constexpr,
    NORM: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    GAINED: tl.constexpr,
    BIASED: tl.constexpr,
    QK_NORM: tl.constexpr,
    ROTARY: tl.constexpr,
    PARTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    DOT: tl.constexpr,
    STAGES: tl.constexpr,
    WHOLE: tl.constexpr = False,
    EARLY: tl.constexpr = False,
):
    """Program: a tile of rows, and BN dimensions of one head's first half with those of the second that pair with them.

    So a rotation stays within a program. weight: [(N_HEAD + 2 N_KV) D_HEAD, D]; keys, values: of this layer,
    [blocks, N_KV, 16, D_HEAD]; places: block · 16 + offset, -1 for none; q: [R, N_HEAD · D_HEAD]. Without
    NORM half is what `normalise` wrote; see `normed_products`. With QK_NORM a program has a whole head: PARTS = 1.
    """
    HALF: tl.constexpr = (D_HEAD + 1) // 2
    N: tl.constexpr = (N_HEAD + 2 * N_KV) * D_HEAD
    EVEN_N: tl.constexpr = HALF % BN == 0 and D_HEAD % 2 == 0
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    there = rows < R
    head, part = tl.program_id(1) // PARTS, tl.program_id(1) % PARTS
    own = told(dims + rows, there)
    position = told(positions + rows, there)
    place = told(places + rows, there, -1)
    limit = D if WHOLE else tl.max(own, axis=0)
    is_query = head < N_HEAD
    pair = part * BN + tl.arange(0, BN)
    second = HALF + pair
    # Past a head's half the next one's weights are multiplied; nothing of that is stored.
    n1, n2 = head * D_HEAD + pair, head * D_HEAD + second
    # Keys and values of all heads are kept, whatever a row's own: a wider submodel may go on from here.
    live = True
    if not WHOLE:
        live = (head < tl.max(told(heads + rows, there), axis=0)) | ~is_query
    if live:
        prefetch(weight, n1, limit, N, D, 4 * BK, EARLY)
        prefetch(weight, n2, limit, N, D, 4 * BK, EARLY)
    in1, in2 = pair < HALF, (pair < HALF) & (second < D_HEAD)
    if ROTARY:  # [2, CONTEXT, D_HEAD]; both halves turn by the same angles
        at = position[:, None] * D_HEAD + pair[None, :]
        turns = there[:, None] & in1[None, :]
        cosine = tl.load(rotary + at, mask=turns, other=0.0)
        sine = tl.load(rotary + CONTEXT * D_HEAD + at, mask=turns, other=0.0)
    follow(EARLY)
    if not live:
        return
    y1, y2 = normed_products(
        half, stats, rows, there, own, limit, norm, norm_bias, weight, n1, weight, n2, eps,
        N, D, NT, NORM, LAYER_NORM, GAINED, True, EVEN_N, BM, BN, BK, DOT, STAGES,
    )  # fmt: skip
    if BIASED:
        y1 += tl.load(bias + n1, mask=in1, other=0.0).to(tl.float32)[None, :]
        y2 += tl.load(bias + n2, mask=in2, other=0.0).to(tl.float32)[None, :]
    if head < N_HEAD + N_KV:
        if QK_NORM:
            gain = q_norm if is_query else k_norm
            y1, y2 = tl.where(in1[None, :], y1, 0.0), tl.where(in2[None, :], y2, 0.0)
            size = tl.rsqrt((tl.sum(y1 * y1, axis=1) + tl.sum(y2 * y2, axis=1)) / D_HEAD + eps)[:, None]
            y1 = y1 * size * tl.load(gain + pair, mask=in1, other=0.0).to(tl.float32)[None, :]
            y2 = y2 * size * tl.load(gain + second, mask=in2, other=0.0).to(tl.float32)[None, :]
        if ROTARY:
            y1, y2 = y1 * cosine - y2 * sine, y2 * cosine + y1 * sine
    if is_query:
        to = q + rows[:, None] * (N_HEAD * D_HEAD) + head * D_HEAD
        kept = own > 0
        tl.store(to + pair[None, :], y1.to(q.dtype.element_ty), mask=kept[:, None] & in1[None, :])
        tl.store(to + second[None, :], y2.to(q.dtype.element_ty), mask=kept[:, None] & in2[None, :])
    else:
        is_key = head < N_HEAD + N_KV
        cache = keys if is_key else values
        kv_head = head - N_HEAD if is_key else head - N_HEAD - N_KV
        kept = place >= 0
        block, offset = place // 16, place % 16
        to = cache + ((block.to(tl.int64) * N_KV + kv_head) * 16 + offset)[:, None] * D_HEAD
        tl.store(to + pair[None, :], y1.to(cache.dtype.element_ty), mask=kept[:, None] & in1[None, :])
        tl.store(to + second[None, :], y2.to(cache.dtype.element_ty), mask=kept[:, None] & in2[None, :])
