"""HAProxy in front of a Ray Serve that is started on this machine, in place of Ray's own proxy."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray.serve._private import haproxy

from lts_ray.ray_session import environment

ENABLE_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
PORTS = {"HAPROXY_METRICS_PORT": 9101, "HAPROXY_STATS_PORT": 8404, "FALLBACK_PROXY_HTTP_PORT": 8500}
"""Of HAProxy beside the endpoint's, and Ray's own choices for them."""
FILES = {"CONFIG_FILE_LOC": "cfg", "SOCKET_PATH": "admin", "METRICS_SOCKET_PATH": "log", "SERVER_STATE_FILE": "state"}
"""Their names: a socket's path has 97 characters at most, 56 of them a node's id."""
SECONDS = {"HAPROXY_HARD_STOP_AFTER_S": 3600, "DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 1}
"""A stream that is longer than the first is cut by a change of replicas; a replica that leaves waits the second for the
proxies to know, and here there is one."""
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
WRAPPER = """#!/bin/sh
for word; do case "$word" in */cfg) sed -i -E 's/bind [*]?:/bind 127.0.0.1:/' "$word";; esac; done
exec $(command -v setpriv >/dev/null && echo setpriv --pdeathsig KILL) {binary} "$@"
"""
"""HAProxy, with its pages of numbers for this machine alone (Ray's first configuration must say so: a later one that
moves them stops the endpoint's socket), and not left behind by a Ray that was killed."""


@contextmanager
def haproxy_here() -> Iterator[None]:
    """A Ray that is started meanwhile, on this machine alone, has HAProxy in front: through Ray's own proxy each
    request's body comes by a second call. What the environment says of it stays, also that it is not to be.
    """
    if os.environ.get(ENABLE_HAPROXY, "1") != "1":
        yield
        return
    try:
        binary = haproxy.get_haproxy_binary()
        subprocess.run([binary, "-v"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())
        print(f"warning: Ray Serve's own proxy stands in front, which takes longer: {reason}", file=sys.stderr)
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="lts-ray-", dir="/tmp"))  # of this user alone
    wrapper = folder / "haproxy"
    wrapper.write_text(WRAPPER.format(binary=shlex.quote(binary)))
    wrapper.chmod(0o700)
    wanted = {name: str(seconds) for name, seconds in SECONDS.items()}
    wanted |= {name: str(_free_port(port)) for name, port in PORTS.items()}
    wanted |= {f"HAPROXY_{name}": str(folder / file) for name, file in FILES.items()} | {
        "HAPROXY_SERVER_STATE_BASE": str(folder)
    }
    wanted = {f"RAY_SERVE_{name}": os.environ.get(f"RAY_SERVE_{name}", value) for name, value in wanted.items()}
    try:
        with environment({**wanted, ENABLE_HAPROXY: "1", BINARY: str(wrapper)}):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port(wanted: int) -> int:
    """It, or another where it is taken."""
    for port in (wanted, 0):
        with suppress(OSError), socket.create_server(("", port)) as probe:
            return int(probe.getsockname()[1])
    return wanted
