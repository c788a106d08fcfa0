"""Tensors take the place of those that were freed."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import pytest
import torch

from lts_ray.training.freed_memory import keep_freed_memory
from tests.forked import forked


def step() -> torch.Tensor:
    first = torch.empty(10 * 2**20).fill_(1)  # 40 MB
    second = first * 2
    both = torch.cat([first, second])
    total = first + second
    del first, second
    return both[0] + (total * 3)[0]


def faults() -> int:
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def write_faults(path: Path) -> None:
    torch.set_num_threads(1)
    left = faults()
    assert keep_freed_memory()
    path.write_text(f"{left} {faults()}")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_steps_of_large_tensors_fault_in_far_fewer_pages(tmp_path: Path) -> None:
    """In a process of its own, since it holds for a whole process."""
    process = forked(write_faults, tmp_path / "faults")
    process.join()
    left, kept = map(int, (tmp_path / "faults").read_text().split())
    assert kept < left / 3
