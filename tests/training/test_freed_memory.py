"""Tensors take the place of those that were freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from lts_ray.training.freed_memory import keep_freed_memory

torch.set_num_threads(1)


def step():
    first = torch.empty(10 * 2**20).fill_(1)  # 40 MB
    second = first * 2
    both = torch.cat([first, second])
    total = first + second
    del first, second
    return both[0] + (total * 3)[0]


def faults():
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


print(faults())
assert keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_steps_of_large_tensors_fault_in_far_fewer_pages() -> None:
    """In a process of its own, since it holds for a whole process."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    left, kept = (int(line) for line in ended.stdout.splitlines())
    assert kept < left / 3
