"""A tensor takes the place of one that was freed."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

PAGES_OF_A_TENSOR = 64 * 2**20 // resource.getpagesize()
SCRIPT = """
import resource, sys, torch
from lts_ray.training.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**18)  # 64 MB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize(("mode", "kept"), [("keep", True), ("leave", False)])
def test_the_pages_of_a_freed_tensor_are_not_faulted_in_again(mode: str, kept: bool) -> None:
    """In a process of its own, since it holds for the whole process; without it, each tensor faults anew."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    assert (int(done.stdout) < PAGES_OF_A_TENSOR / 100) == kept
