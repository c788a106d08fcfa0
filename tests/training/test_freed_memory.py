"""Tensors take the place of those that were freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from lts_ray.training.freed_memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)


def step():
    first = torch.empty(10 * 2**20).fill_(1)  # 40 MB
    second = first * 2
    both = torch.cat([first, second])
    total = first + second
    del first, second
    return both[0] + (total * 3)[0]


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


step(), step()
before = faults()
for _ in range(6):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_steps_of_large_tensors_fault_in_far_fewer_pages() -> None:
    """In processes of their own, since it holds for a whole process."""
    kept, left = (
        int(subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("keep", "leave")
    )
    assert kept < left / 3
