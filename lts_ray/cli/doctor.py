"""`lts-ray doctor` and `lts-ray --version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import typer

from lts_ray.cli.options import Json

PACKAGES = ("lts-ray", "torch", "ray", "tokenizers", "numpy", "transformers")
MISSING = "not installed"


def doctor(as_json: Json = False) -> None:
    """Say what this machine and installation have, and how to get what is missing."""
    import platform

    import torch

    from lts_ray.console import print_rows
    from lts_ray.device import gpu_memory
    from lts_ray.processor import Processor
    from lts_ray.runtime.kernel_library import kernel_library, kernel_problem, thread_steps

    processor, library = Processor.here(), kernel_library()
    found = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    found["CPU"] = f"{processor.name}, {processor.cores} cores; {' '.join(processor.flags) or 'no wide registers'}"
    found["memory"] = f"{processor.memory_mb:,} MB"
    found["GPU"] = "none that torch finds"
    if torch.cuda.is_available():
        (free, total), triton = gpu_memory(), _version("triton")
        runs = f"kernels of triton {triton} run steps"
        if triton == MISSING:
            runs = "plain torch runs steps, narrow ones no faster than wide ones: our kernels need `pip install triton`"
        found["GPU"] = f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free; {runs}"
    found["kernels"] = (
        "compiled" if library is None else f"compiled; this CPU runs {len(thread_steps(library))} of their variants"
    )
    problem = kernel_problem()
    if problem is not None:
        found["kernels"] = problem
    print_rows([{"what": name, "here": value} for name, value in found.items()], as_json=as_json)


def print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"lts-ray {_version('lts-ray')}")
        raise typer.Exit


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING
