"""The CPU that this process runs on, as Linux describes it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

TELLING = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "sve")
"""Flags that say which kernels and precisions are fast."""


@dataclass(frozen=True, kw_only=True)
class Processor:
    name: str
    """Of its model."""
    flags: tuple[str, ...]
    """Those of TELLING that it has."""
    cores: int
    """Those that this process may use."""
    memory_mb: int
    """Of the machine, in 1e6 bytes."""

    @classmethod
    def here(cls) -> Processor:
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        flags = set(f"{told.get('flags', '')} {told.get('Features', '')}".split())
        return cls(
            name=told.get("model name") or platform.processor() or platform.machine(),
            flags=tuple(flag for flag in TELLING if flag in flags),
            cores=len(os.sched_getaffinity(0)),
            memory_mb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**6,
        )
