"""An endpoint in a process of its own, as `lts-ray serve` starts it, for as long as the quickstart asks it things."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from rich.console import Console

from lts_ray.errors import LtsRayError
from lts_ray.files import write_text

START_S = 150.0
STOP_S = 30.0


def serve_command(config: Path) -> str:
    """What a user types to keep the endpoint up."""
    return shlex.join([os.path.relpath(Path(sys.executable).with_name("lts-ray")), "serve", os.path.relpath(config)])


@contextmanager
def endpoint(config: Path, *, log: Path, console: Console) -> Iterator[str]:
    """Start `config` on a free port and yield its URL once it answers; stop it and all of its processes at the end.

    Raises LtsRayError if it stops, or does not answer in time; its output is in `log`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = config.with_name(".serve-on-a-free-port.yaml")
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    settings["http_options"]["port"] = port
    write_text(own, yaml.safe_dump(settings, sort_keys=False))
    console.print(f"[dim]$ {serve_command(config)}[/dim]", soft_wrap=True)
    environment = {**os.environ, "RAY_SERVE_LOG_TO_STDERR": "0", "RAY_ADDRESS": "local"}  # not on a cluster of others
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lts_ray.cli.main", "serve", own],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us first: the endpoint is stopped in order below
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(process, url, log)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        own.unlink(missing_ok=True)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LtsRayError(f"the endpoint stopped while starting; its output is in {log}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise LtsRayError(f"the endpoint did not answer within {START_S:.0f} s; its output is in {log}")
