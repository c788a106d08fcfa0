"""A plugin of pytest's for a run on a card: of each test that fails its last words, at once, as rows of a check's part.

A worker that had an error on the card can test nothing more, and one whose kernel hangs never would: both end, and
pytest-xdist goes on with another.
"""

from __future__ import annotations

import faulthandler
import os
from collections import Counter

import pytest
import torch

from benchmarks.gpu.prepared_process import ROW, tell
from lts_ray.files import json_text

HANGS_S = 100.0
"""Of one test, kernels compiled and all."""
STDERR = os.dup(2)  # before pytest captures it
IN_WORKER = "PYTEST_XDIST_WORKER" in os.environ
COUNTS: Counter[str] = Counter()
TIMES: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if IN_WORKER:
        return
    if report.when == "call" or report.outcome != "passed":
        COUNTS[report.outcome] += 1
        TIMES[report.nodeid] = round(report.duration, 1)
    if report.failed:
        words = report.longreprtext
        why = next((line[1:].strip() for line in words.splitlines() if line.startswith("E ")), words[-300:])
        tell(ROW, json_text({"test": report.nodeid, "why": why, "holds": False, "text": [words[-3_000:]]}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not IN_WORKER:
        slowest = sorted(TIMES.items(), key=lambda each: -each[1])[:5]
        counts = {name: COUNTS[name] for name in ("passed", "failed", "skipped")}
        tell(ROW, json_text({**counts, "holds": not COUNTS["failed"] and COUNTS["passed"] > 0, "slowest": slowest}))


def pytest_runtest_logstart(nodeid: str) -> None:
    if IN_WORKER:
        faulthandler.dump_traceback_later(HANGS_S, exit=True, file=STDERR)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid: str) -> None:
    """Its report is with the others' by now."""
    if not IN_WORKER:
        return
    faulthandler.cancel_dump_traceback_later()
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError as error:
        os.write(STDERR, f"{nodeid} left the card with {error}\n".encode())
        os._exit(1)
