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
    """Before anything is read. EARLY: the kernel was launched while the one before it ran, and waits for it here."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()


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
def row_norm(stats, rows, there, dims, eps, NT: tl.constexpr, LAYER_NORM: tl.constexpr):
    """Mean (0 for an RMS norm) and 1 / deviation of rows, from their partial sums and squares [R, 2, NT]."""
    NT_PADDED: tl.constexpr = triton.next_power_of_2(NT)
    tile = tl.arange(0, NT_PADDED)
    at = stats + rows[:, None] * (2 * NT) + tile[None, :]
    mask = there[:, None] & (tile < NT)[None, :]
    count = tl.maximum(dims, 1).to(tl.float32)
    squares = tl.sum(tl.load(at + NT, mask=mask, other=0.0), axis=1) / count
    if LAYER_NORM:
        mean = tl.sum(tl.load(at, mask=mask, other=0.0), axis=1) / count
        return mean, tl.rsqrt(tl.maximum(squares - mean * mean, 0.0) + eps)
    else:
        return tl.zeros_like(squares), tl.rsqrt(squares + eps)


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
def normed(
    x,
    dims,
    k,
    mean,
    scale,
    norm,
    norm_bias,
    D: tl.constexpr,
    NORM: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    LATE: tl.constexpr,
):
    """Columns k of rows, x [BM, BK], normalised if NORM; 0 past each row's own dims.

    LATE: but for the scale, which the caller applies to the product: so the weights need not wait for the statistics.
    """
    if NORM:
        inside = k < D
        y = x.to(tl.float32)
        if not LATE:
            y = y * scale[:, None]
        if LAYER_NORM:
            y -= (mean * scale)[:, None]
        y = y * tl.load(norm + k, mask=inside, other=0.0).to(tl.float32)[None, :]
        if LAYER_NORM:
            y += tl.load(norm_bias + k, mask=inside, other=0.0).to(tl.float32)[None, :]
            y = tl.where(k[None, :] < dims[:, None], y, 0.0)
        return y.to(x.dtype)
    else:
        return x


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
