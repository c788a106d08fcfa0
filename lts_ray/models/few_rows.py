"""A matrix product for the few rows of a decode step.

On a CPU, BLAS takes two to four rows through a kernel made for many: they cost up to twice what one row costs. Asked
the other way round, weight · xᵀ, four cost little more than one; two and three are taken as four. Not so with MKL on
a CPU of Intel's own, whose kernels take two and three rows in the time of one, and four in that of two either way.
Verifying a draft, and a decode step of a few requests, are made of such products.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

FEW = 4
CPU = Path("/proc/cpuinfo")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`functional.linear`: x [..., in], weight [out, in]. Returns [..., out]."""
    out, into = weight.shape
    rows = x.numel() // into
    if not 1 < rows <= FEW or torch.is_grad_enabled() or not _is_plain(x) or _has_own_kernels():
        return functional.linear(x, weight, bias)
    flat = x.reshape(rows, into)
    if rows < FEW:
        flat = functional.pad(flat, (0, 0, 0, FEW - rows))
    # Against a matrix that is wider than tall the kernel for many does as well.
    y = torch.mm(weight, flat.t()).t() if out >= into else torch.mm(flat, weight.t())
    y = y[:rows] if bias is None else y[:rows] + bias
    return y.reshape(*x.shape[:-1], out)


def _is_plain(x: Tensor) -> bool:
    """Whether BLAS multiplies it: reduced precisions go another way, which has no such kernel."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


@cache
def _has_own_kernels() -> bool:
    """Whether BLAS is quick with few rows as they are. The maker says, no clock: results stay the same."""
    is_intel = CPU.is_file() and "GenuineIntel" in CPU.read_text(encoding="utf-8", errors="replace")
    return is_intel and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
