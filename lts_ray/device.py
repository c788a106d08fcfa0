"""Where torch computes: on the CPU, or on a GPU."""

from __future__ import annotations

from typing import Literal

import torch

from lts_ray.errors import LtsRayError

Device = Literal["auto", "cpu", "cuda"]
"""auto: a GPU where there is one."""


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
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
