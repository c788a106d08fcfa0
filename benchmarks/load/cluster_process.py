"""The processes of a Ray cluster on this machine, by what they do, and the signals that harm them. For Linux."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from serve.fleet.node_kind import INGRESS

ROLES = {
    f"ray::ServeReplica:default:{INGRESS}": "ingress",
    "ray::ServeReplica:": "replica",
    "ray::ResourceTrainable": "trial",
    "ray::MeasurementActor": "actor",
}
"""By how the command lines begin that Ray gives its workers; the trial's is Tune's name."""
HALF_S = 0.02
"""At half speed a process stands still so long, and runs as long."""


@dataclass(frozen=True)
class ClusterProcess:
    pid: int
    title: str

    @property
    def role(self) -> str | None:
        return next((role for begin, role in ROLES.items() if self.title.startswith(begin)), None)


def children_of(parents: Collection[int], *, proc: Path = Path("/proc")) -> list[ClusterProcess]:
    """Of nodes' raylets: their workers, the oldest first."""
    found = []
    for folder in proc.glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if int(parent) in parents and state != "Z":
                found.append(ClusterProcess(int(folder.name), title))
    return sorted(found, key=lambda each: each.pid)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """It goes on at the end, whatever happens; one that is gone by then is no error."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def slowed(pid: int, seconds: float) -> None:
    """At half speed for so long."""
    for _ in range(round(seconds / (2 * HALF_S))):
        with stopped(pid):
            await asyncio.sleep(HALF_S)
        await asyncio.sleep(HALF_S)
