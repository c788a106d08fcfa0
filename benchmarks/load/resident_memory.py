"""Memory that a process holds, second by second, and how much it grows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lts_ray.errors import LtsRayError
from lts_ray.timing import Clock

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SETTLING = 0.2
"""The first part of a run does not count: pools fill, code is loaded, the allocator finds its level."""


def resident_bytes(pid: int | None = None) -> int:
    """pid: None for this process."""
    path = Path("/proc") / ("self" if pid is None else str(pid)) / "statm"
    try:
        return int(path.read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except OSError as error:
        raise LtsRayError(f"cannot read the memory of process {pid or os.getpid()}: {error}") from None


async def sampled(
    samples: list[tuple[float, int]], *, clock: Clock, pid: int | None = None, every_s: float = 1.0
) -> None:
    """Append (seconds since the start, resident bytes) until cancelled."""
    begin_s = clock()
    while True:
        samples.append((clock() - begin_s, resident_bytes(pid)))
        await asyncio.sleep(every_s)


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Of what counts of a run."""

    minutes: float
    mean_mb: float
    """MiB, as the others."""
    first_mb: float
    last_mb: float
    mb_per_minute: float
    """Of the line through the samples."""

    @property
    def share(self) -> float:
        """What the line rises by, over the mean."""
        return self.mb_per_minute * self.minutes / self.mean_mb


def growth(samples: Sequence[tuple[float, int]]) -> Growth | None:
    """None where there are not two samples that count."""
    end_s = samples[-1][0] if samples else 0.0
    counted = np.array([sample for sample in samples if sample[0] >= SETTLING * end_s])  # [N, 2]
    if len(counted) < 2:
        return None
    minutes, megabytes = counted[:, 0] / 60, counted[:, 1] / 2**20
    slope, _ = np.polyfit(minutes, megabytes, 1)
    return Growth(
        minutes=float(minutes[-1] - minutes[0]),
        mean_mb=float(megabytes.mean()),
        first_mb=float(megabytes[0]),
        last_mb=float(megabytes[-1]),
        mb_per_minute=float(slope),
    )
