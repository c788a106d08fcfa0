"""Weights as the kernels read them: panels of sixteen outputs, one large piece of memory for all of them.

Huge pages, where the system has them: a step reads every weight once, and with small pages it would wait for their
addresses as long as for the weights.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from lts_ray.quantisation.quantised_matrix import GROUP, QuantisedMatrix

PANEL = 16
SLABS, QUAD = 4, 4
"""Of a group: slabs of twice four inputs (kernels/rounded.h)."""
UNIT = 2 * PANEL
"""Outputs are padded to whole pairs of panels."""
HUGE_PAGE = 2 << 20


def padded(n: int, unit: int = UNIT) -> int:
    return -(-n // unit) * unit


def empty(floats: int) -> Tensor:
    """Zeros, [floats], float32, that begin at a huge page. The memory is given back with the tensor."""
    pages = mmap.mmap(-1, 4 * floats + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # Python knows the word, but the system may not have them
            pages.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(pages, dtype=torch.float32)
    skipped = -whole.data_ptr() % HUGE_PAGE // 4
    return whole[skipped : skipped + floats]


def give_back(memory: Tensor) -> None:
    """The pages of what `empty` gave: it holds zeros again, and takes memory as it is written."""
    if hasattr(mmap, "MADV_DONTNEED"):
        first, stop = (
            at // mmap.PAGESIZE * mmap.PAGESIZE for at in (memory.data_ptr(), memory.data_ptr() + memory.nbytes)
        )
        ctypes.CDLL(None, use_errno=True).madvise(
            ctypes.c_void_p(first), ctypes.c_size_t(stop - first), mmap.MADV_DONTNEED
        )


@dataclass(frozen=True)
class PackedPart:
    floats: int
    fill: Callable[[Tensor], object]
    """Writes so many floats into a tensor of that length that holds zeros."""


def vector(values: Tensor, length: int | None = None) -> PackedPart:
    """values [n], with zeros up to `length`."""
    n = values.numel()
    return PackedPart(n if length is None else length, lambda to: to[:n].copy_(values.flatten()))


def panels(*matrices: Tensor, dtype: torch.dtype = torch.float32) -> PackedPart:
    """Matrices [n_out, n_in] of one shape; panel 0 of each, then panel 1 of each, and so on. dtype: 4 or 2 bytes."""
    n_out, n_in = matrices[0].shape
    outputs = padded(n_out)

    def fill(to: Tensor) -> None:
        target = to.view(dtype).view(outputs // PANEL, len(matrices), n_in, PANEL)
        for index, matrix in enumerate(matrices):
            for first in range(0, n_out, PANEL * 256):  # in pieces: a padded copy of a large matrix would cost its size
                some = matrix[first : first + PANEL * 256].detach()
                rows = torch.nn.functional.pad(some, (0, 0, 0, -len(some) % PANEL)).view(-1, PANEL, n_in)
                start = first // PANEL
                target[start : start + len(rows), index].copy_(rows.transpose(1, 2))

    return PackedPart(outputs * n_in * len(matrices) * dtype.itemsize // 4, fill)


@dataclass(frozen=True)
class PackedCodes:
    """Quantised matrices [n_out, n_in] of one shape, in panels as `panels` packs floats."""

    upper: PackedPart
    lower: PackedPart
    scales: PackedPart


def codes_in_panels(matrices: Sequence[QuantisedMatrix]) -> PackedCodes:
    n_out, n_in = matrices[0].codes.shape
    outputs, groups = padded(n_out), -(-n_in // GROUP)
    size = outputs * groups * GROUP // 2 * len(matrices)  # bytes of a plane

    def planes(matrix: QuantisedMatrix) -> tuple[Tensor, Tensor]:
        """The quads of four inputs whose codes lie in low halves of bytes, and in high ones: [panels, groups, slabs,
        PANEL, QUAD]."""
        codes = torch.nn.functional.pad(matrix.codes, (0, groups * GROUP - n_in, 0, outputs - n_out))
        parts = codes.view(-1, PANEL, groups, SLABS, 2, QUAD).permute(4, 0, 2, 3, 1, 5)
        return parts[0], parts[1]

    def target(to: Tensor, index: int) -> Tensor:
        return to.view(torch.uint8).view(-1, len(matrices), groups, SLABS, PANEL, QUAD)[:, index]

    def upper(to: Tensor) -> None:
        for index, matrix in enumerate(matrices):
            low, high = planes(matrix)
            target(to, index).copy_(low >> 4 | high & 0xF0)

    def lower(to: Tensor) -> None:
        for index, matrix in enumerate(matrices):
            low, high = planes(matrix)
            target(to, index).copy_(low & 0x0F | high << 4)

    def scales(to: Tensor) -> None:
        shared = to.view(torch.float16).view(-1, len(matrices), groups, PANEL)
        for index, matrix in enumerate(matrices):
            held = torch.nn.functional.pad(matrix.scales, (0, 0, 0, outputs - n_out))
            shared[:, index].copy_(held.view(-1, PANEL, groups).transpose(1, 2))

    of_scales = outputs * groups * len(matrices) // 2
    return PackedCodes(PackedPart(size // 4, upper), PackedPart(size // 4, lower), PackedPart(of_scales, scales))


def alternated(*biases: Tensor) -> PackedPart:
    """Biases [n_out] of matrices that `panels` packs together."""
    (n_out,) = biases[0].shape
    outputs = padded(n_out)

    def fill(to: Tensor) -> None:
        target = to.view(outputs // PANEL, len(biases), PANEL)
        for index, bias in enumerate(biases):
            target[:, index].copy_(torch.nn.functional.pad(bias.detach(), (0, outputs - n_out)).view(-1, PANEL))

    return PackedPart(outputs * len(biases), fill)


def gather(parts: list[PackedPart | None]) -> tuple[Tensor, list[int | None]]:
    """All parts in one piece of memory, and where in it each begins, in floats: at whole cache lines."""
    starts: list[int | None] = []
    end = 0
    for part in parts:
        starts.append(None if part is None else end)
        end += 0 if part is None else padded(part.floats, PANEL)
    memory = empty(end)
    for part, start in zip(parts, starts, strict=True):
        if part is not None and start is not None:
            part.fill(memory[start : start + part.floats])
    return memory, starts
