"""Where torch computes: on the CPU, or on a GPU, and what memory that has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from lts_ray.errors import LtsRayError

Device = Literal["auto", "cpu", "cuda"]
"""auto: a GPU where there is one."""
CPU = torch.device("cpu")
NO_ROOM = ("out of memory", "ALLOC_FAILED")


def device_here(asked: str, *, what: str = "device") -> Literal["cpu", "cuda"]:
    """Of a Device, on this machine. what: who asks. Raises LtsRayError for a GPU where torch finds none."""
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise LtsRayError(f"{what} is cuda, but torch finds no CUDA GPU on this machine: give cpu or auto")
    return "cuda" if has_gpu and asked != "cpu" else "cpu"


def dtype_here(device: str) -> Literal["float32", "bfloat16", "float16"]:
    """What weights are in where nothing says it: on a GPU what its matrix units multiply."""
    if device == "cpu":
        return "float32"
    lacks = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    return "float16" if lacks else "bfloat16"


def gpu_memory() -> tuple[int, int]:
    """Bytes that are free now on the GPU that this process has, and all of its bytes."""
    return torch.cuda.mem_get_info()


@contextmanager
def within_gpu_memory(what: str, *, advice: str) -> Iterator[None]:
    """Raises LtsRayError, in one line, where the GPU has no room for what the block asks for. what: the block does."""
    try:
        yield
    except RuntimeError as error:
        # What is not torch's allocator, such as capturing a graph or loading a kernel, has only words for it.
        of_cuda = "CUDA" in str(error) and any(words in str(error) for words in NO_ROOM)
        if not (isinstance(error, torch.OutOfMemoryError) or of_cuda):
            raise
        free, total = gpu_memory()
        raise LtsRayError(
            f"{what} does not fit on the GPU, where {free / 1e9:.1f} of {total / 1e9:.1f} GB are free: {advice}"
        ) from None


def lost_gpu(device: torch.device) -> str | None:
    """After an error: why the device does nothing more for this process. None where it goes on; a CPU always does.

    Waits for all that it was asked for. An error of a kernel stays: each call fails until the process ends.
    """
    if device.type != "cuda":
        return None
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products on the device in `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def free_bytes(device: torch.device) -> int | None:
    """That this process can still take of a GPU, with what torch holds there unused, up to the share that it may have.

    None: not a GPU.
    """
    if device.type != "cuda":
        return None
    (free, total), used = gpu_memory(), torch.cuda.memory_allocated()
    share = int(torch.cuda.get_per_process_memory_fraction() * total)
    return min(free + torch.cuda.memory_reserved(), share) - used
