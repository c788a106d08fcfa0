"""What torch compiles: a function that is called often, with few shapes, each of which it is compiled for."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

SHAPES = 64
"""That one function may see before it runs as it is: a layer has one for each width, of each model of a process."""


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose first call with other shapes or settings takes seconds."""
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    return torch.compile(function, dynamic=False)


def can_compile() -> bool:
    """Whether there is what torch compiles for a GPU with: triton, which asks for a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return find_spec("triton") is not None and compiler is not None and headers.exists()
