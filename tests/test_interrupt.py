"""A command that is interrupted says its last line, by whichever signal and however often."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

COMMAND = """
import os, signal, sys, time
import typer
from lts_ray.errors import LtsRayError
from lts_ray.interrupt import interruptible

def wait(number):
    print("ready", flush=True)
    time.sleep(600)

def verb(way: str = "plain") -> None:
    try:
        wait(1)
    except KeyboardInterrupt:
        if way == "plain":
            raise
        try:
            raise LtsRayError("interrupted; go on with --resume") from None
        finally:
            if way == "again":
                wait(2)  # as taking down a cluster does
    finally:
        if way == "plain":
            pass

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(interruptible(verb))
try:
    app()
except LtsRayError as error:
    os.kill(os.getpid(), signal.SIGINT)  # one that comes late
    print(f"lts-ray: {error}", file=sys.stderr)
    raise SystemExit(2) from None
"""
SAYS = {
    "plain": "interrupted",
    "answered": "interrupted; go on with --resume",
    "again": "interrupted; go on with --resume",
}


@pytest.mark.parametrize("way", SAYS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_an_interrupted_command_ends_with_its_last_line(number: signal.Signals, way: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--way", way],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(2 if way == "again" else 1):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    _, said = process.communicate()
    assert said == f"lts-ray: {SAYS[way]}\n"
    assert process.returncode == 2
