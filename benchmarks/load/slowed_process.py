"""A share of a core for another process, which is stopped and continued again and again. It needs no privileges."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PERIOD_S = 0.01
"""In each, the process runs for its share."""
DUTY_CYCLE = """
import os, signal, sys, time
pid, parent, on_s, off_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
while os.getppid() == parent:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(off_s)
    os.kill(pid, signal.SIGCONT)
    time.sleep(on_s)
"""


@contextmanager
def slowed(pid: int, share: float) -> Iterator[None]:
    """Until the end of the block. Nothing is done for a whole core."""
    if share >= 1:
        yield
        return
    times = (str(share * PERIOD_S), str((1 - share) * PERIOD_S))
    command = [sys.executable, "-S", "-c", DUTY_CYCLE, str(pid), str(os.getpid()), *times]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as cycle:
        try:
            yield
        finally:
            cycle.kill()
            cycle.wait()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
