"""The machine that a figure holds for."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import torch

from lts_ray.processor import Processor


@dataclass(frozen=True, kw_only=True)
class Machine:
    cpu: str
    """The name of its model."""
    cores: int
    """Those that this process may use."""
    gpu: str | None
    torch: str
    """Its version."""
    commit: str | None
    """Of the working folder; None where it is no checkout."""

    @classmethod
    def here(cls) -> Machine:
        processor = Processor.here()
        return cls(
            cpu=processor.name,
            cores=processor.cores,
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            torch=str(torch.__version__),
            commit=_commit(),
        )


def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
