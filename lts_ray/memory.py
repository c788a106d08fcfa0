"""What memory this process may have, so that what needs more is refused before any of it is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ctypes import CDLL
from pathlib import Path

from lts_ray.errors import LtsRayError

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says what a container may have, in bytes."""


def memory_bytes() -> int:
    """All of this machine's, or of the container where that is less; and what can be swapped out."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in LIMITS:
        told = _read(path).strip()
        most = min(most, int(told)) if told.isdecimal() else most
    swap = next(
        (line.split() for line in _read(Path("/proc/meminfo")).splitlines() if line.startswith("SwapTotal")), []
    )
    return most + (int(swap[1]) * 1024 if len(swap) > 1 else 0)


def check_memory(parts: Mapping[str, int], *, what: str, there: int | None = None) -> None:
    """Raises LtsRayError where the parts are together more than there is, however little else is needed.

    parts: bytes by what to do about them. what: needs them. there: in bytes; None: all of this machine's.
    """
    most = memory_bytes() if there is None else there
    needed = sum(parts.values())
    if needed > most:
        advice = max(parts, key=lambda name: parts[name])
        raise LtsRayError(
            f"{what} needs at least {needed // 10**9:,} GB of memory; there are {most / 1e9:,.1f} GB: {advice}"
        )


def return_freed() -> None:
    """Give the system back what was freed: glibc keeps it for what is asked for next, which may never be so much."""
    if (trim := getattr(CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
