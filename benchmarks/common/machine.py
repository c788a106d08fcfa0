"""The machine that a figure holds for."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch


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
        return cls(
            cpu=_cpu(),
            cores=len(os.sched_getaffinity(0)),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            torch=str(torch.__version__),
            commit=_commit(),
        )


def _cpu() -> str:
    """Its model's name where Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
