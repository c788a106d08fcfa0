"""Ports for servers that another process opens, later."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

PORTS = iter(random.Random(os.getpid()).sample(range(20_000, 32_768), 2_000))
"""Above those of Ray's workers, and below those that the system gives away in between to whatever connects."""


def free_port() -> int:
    """Each time another one, which nobody listens on."""
    for port in PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("all ports are taken")
