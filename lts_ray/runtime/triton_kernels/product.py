"""What the kernels that multiply by a matrix have in common. Matrices are [N, K], as torch's Linear has them.

A tile of BM rows meets BN of the matrix's rows, BK of its columns at a time. With `DOT` the tensor cores multiply; a
single row needs none: there every thread keeps sums of its own, [BN, BK], which are added up once, behind the loop.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def follow(EARLY: tl.constexpr):
    """Before anything is read that kernels of this step write, and before anything is written.

    EARLY: the kernel was launched while the one before it ran, and waits for its end here. In each kernel some program
    waits before it lets the next kernel begin: so all kernels before that have ended too, and a program with nothing
    to do need not wait. Weights and what the step is told may be read earlier.
    """
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def told(numbers, there, OTHER: tl.constexpr = 0):
    """What the step is told, OTHER where nothing is `there`; also before `follow`.

    Past the first-level cache, which may hold what the step before was told until the wait.
    """
    return tl.load(numbers, mask=there, other=OTHER, cache_modifier=".cg")


@triton.jit
def prefetch(matrix, n, limit, N: tl.constexpr, K: tl.constexpr, COUNT: tl.constexpr, EARLY: tl.constexpr):
    """Before `follow`, if EARLY: the first COUNT columns, up to the limit, of rows n of a matrix [N, K] are sent on
    their way to the second-level cache, while the kernel before this one ends."""
    if EARLY:
        LINE: tl.constexpr = 1024 // matrix.dtype.element_ty.primitive_bitwidth  # 128 bytes
        k = tl.arange(0, triton.cdiv(COUNT, LINE)) * LINE
        at = matrix + tl.minimum(n, N - 1)[:, None] * K + tl.maximum(tl.minimum(k, limit - 1), 0)[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; // dummy $0", "=r,l", [at.to(tl.int64)], tl.int32, is_pure=False, pack=1
        )


@triton.jit
def sums(BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DOT: tl.constexpr):
    """Where `fold` begins."""
    if DOT:
        return tl.zeros((BM, BN), tl.float32)
    else:
        return tl.zeros((BN, BK), tl.float32)


@triton.jit
def fold(acc, a, w, DOT: tl.constexpr):
    """acc with the product of a [BM, BK] and w [BN, BK]; both of the weights' type.

    float32 goes through the tensor cores in three parts: as good as its own product, which spills its registers.
    """
    if DOT:
        return tl.dot(a, tl.trans(w), acc, input_precision="tf32x3")
    else:
        return acc + a.to(tl.float32) * w.to(tl.float32)


@triton.jit
def folded(acc, DOT: tl.constexpr):
    """[BM, BN]."""
    if DOT:
        return acc
    else:
        return tl.sum(acc, axis=1)[None, :]


@triton.jit
def weights(matrix, n, k, N: tl.constexpr, K: tl.constexpr, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr):
    """Rows n and columns k of a matrix [N, K], 0 outside of it."""
    at = matrix + n[:, None] * K + k[None, :]
    if EVEN_N and EVEN_K:
        return tl.load(at)
    else:
        return tl.load(at, mask=(n < N)[:, None] & (k < K)[None, :], other=0.0)


@triton.jit
def row_sums(stats, rows, there, NT: tl.constexpr, LAYER_NORM: tl.constexpr):
    """What `row_norm` takes: rows' partial squares, and sums for a LayerNorm, of stats [R, 2, NT]."""
    tile = tl.arange(0, triton.next_power_of_2(NT))
    at = stats + rows[:, None] * (2 * NT) + tile[None, :]
    mask = there[:, None] & (tile < NT)[None, :]
    squares = tl.load(at + NT, mask=mask, other=0.0)
    if LAYER_NORM:
        return squares, tl.load(at, mask=mask, other=0.0)
    else:
        return squares, squares


@triton.jit
def row_norm(squares, sums, dims, eps, LAYER_NORM: tl.constexpr):
    """1 / deviation of rows, and their mean, 0 for an RMS norm."""
    count = tl.maximum(dims, 1).to(tl.float32)
    square = tl.sum(squares, axis=1) / count
    if LAYER_NORM:
        mean = tl.sum(sums, axis=1) / count
        return tl.rsqrt(tl.maximum(square - mean * mean, 0.0) + eps), mean
    else:
        return tl.rsqrt(square + eps), tl.zeros_like(square)


@triton.jit
def rows_of(a, rows, there, k, K: tl.constexpr, EVEN_K: tl.constexpr):
    """Rows and columns k of a [R, K], 0 outside of it. Masks that follow the data would cost loads of 16 bytes: so what
    a row does not have is 0 in memory."""
    at = a + rows[:, None] * K + k[None, :]
    if EVEN_K:
        return tl.load(at, mask=there[:, None], other=0.0)
    else:
        return tl.load(at, mask=there[:, None] & (k < K)[None, :], other=0.0)


@triton.jit
def normed(x, dims, k, scale, mean, norm, norm_bias, D: tl.constexpr, LAYER_NORM: tl.constexpr, GAINED: tl.constexpr):
    """Columns k of rows, x [BM, BK], normalised; 0 past each row's own dims. GAINED: by the norm's gains already."""
    inside = k < D
    y = x.to(tl.float32) * scale[:, None]
    if LAYER_NORM:
        y -= (mean * scale)[:, None]
    if not GAINED:
        y = y * tl.load(norm + k, mask=inside, other=0.0).to(tl.float32)[None, :]
    if LAYER_NORM:
        y += tl.load(norm_bias + k, mask=inside, other=0.0).to(tl.float32)[None, :]
        y = tl.where(k[None, :] < dims[:, None], y, 0.0)
    return y.to(x.dtype)


@triton.jit
def normed_products(
    half, stats, rows, there, dims, limit, norm, norm_bias, one, n1, other, n2, eps,
    N: tl.constexpr, D: tl.constexpr, NT: tl.constexpr, NORM: tl.constexpr, LAYER_NORM: tl.constexpr,
    GAINED: tl.constexpr, TWO: tl.constexpr, EVEN_N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, DOT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Rows of half [R, D], normalised if NORM, by rows n1 of the matrix one [N, D] and, if TWO, by rows n2 of `other`:
    [BM, BN] twice, the second as the first if not TWO. limit: how much of D any of the rows has.

    GAINED: half has the norm's gains, and 1 / deviation is for the products: so the loop waits for no statistics.
    Otherwise the norm is in the loop.
    """
    scale, mean = dims, dims
    FIRST: tl.constexpr = NORM and not (GAINED and DOT)  # a single row's are on their way while the loop runs
    if FIRST:
        squares, partial = row_sums(stats, rows, there, NT, LAYER_NORM)
    if NORM and not GAINED:
        scale, mean = row_norm(squares, partial, dims, eps, LAYER_NORM)
    y1, y2 = sums(BM, BN, BK, DOT), sums(BM, BN, BK, DOT)
    for start in tl.range(0, limit, BK, num_stages=STAGES):
        k = start + tl.arange(0, BK)
        a = rows_of(half, rows, there, k, D, D % BK == 0)
        if NORM and not GAINED:
            a = normed(a, dims, k, scale, mean, norm, norm_bias, D, LAYER_NORM, GAINED)
        y1 = fold(y1, a, weights(one, n1, k, N, D, EVEN_N, D % BK == 0), DOT)
        if TWO:
            y2 = fold(y2, a, weights(other, n2, k, N, D, EVEN_N, D % BK == 0), DOT)
    y1 = folded(y1, DOT)
    y2 = folded(y2, DOT) if TWO else y1
    if NORM and GAINED:
        if not FIRST:
            squares, partial = row_sums(stats, rows, there, NT, LAYER_NORM)
        scale, mean = row_norm(squares, partial, dims, eps, LAYER_NORM)
        y1, y2 = y1 * scale[:, None], y2 * scale[:, None]
    return y1, y2


@triton.jit
def activated(x, KIND: tl.constexpr):
    """KIND: of lts_ray.models.family.Activation."""
    if KIND == "silu":
        y = x * tl.sigmoid(x)
    elif KIND == "relu":
        y = tl.maximum(x, 0.0)
    elif KIND == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:  # gelu_tanh: tanh(z) = 2 sigmoid(2 z) - 1
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return y
