"""Hosts of one's own on this machine: network namespaces on a bridge, with an address and processes each.

They share the machine's cores and files, but not its boot id: they count as hosts, not as nodes of one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from lts_ray.errors import LtsRayError

PREFIX = "ltsh"
"""Of the names of namespaces, links and folders; then comes the process that made them, and the host's number."""
FOLDERS = Path("/tmp")
"""Of short paths: those of Ray's sockets, far below, have at most 107 characters."""
NETWORK = "10.213"
PERIOD_S = 0.02
"""Of a host that is slowed: it runs, then stands still."""
ENTER = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'


class NetworkHost:
    """One host. What it starts is in its namespace, and so is all that this starts."""

    def __init__(self, name: str, link: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self._link, self._boot_id = link, folder / "boot_id"

    def boot(self) -> None:
        """Connected, and another boot than before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._boot_id.write_text(f"{uuid4()}\n", encoding="ascii")
        self.mend()

    def start(self, *command: str, log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a command that is not waited for; what it says goes to the end of the log."""
        with log.open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._link, "sh", "-c", ENTER, str(self._boot_id), *command],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for this process, which ends the others
            )

    def cut(self) -> None:
        """Pull its cable."""
        _ip("link", "set", self._link, "down")

    def mend(self) -> None:
        _ip("link", "set", self._link, "up")

    def processes(self) -> list[int]:
        return _processes(self._link)

    def kill(self) -> None:
        """As when its power fails: it is cut off at once, and all its processes are gone."""
        self.cut()
        _kill(self._link)

    @contextmanager
    def slowed(self, share: float) -> Iterator[None]:
        """All processes that run on it by now run for this share of the time."""
        processes, over = self.processes(), threading.Event()

        def take_turns() -> None:
            while not over.wait(share * PERIOD_S):
                _signal(processes, signal.SIGSTOP)
                over.wait((1 - share) * PERIOD_S)
                _signal(processes, signal.SIGCONT)

        turns = threading.Thread(target=take_turns, name=f"slow {self.name}", daemon=True)
        turns.start()
        try:
            yield
        finally:
            over.set()
            turns.join()


@contextmanager
def network_hosts(names: Sequence[str]) -> Iterator[Mapping[str, NetworkHost]]:
    """Booted hosts that reach one another, and are reached from here. All of them is removed at the end.

    First what other processes have left that were killed. Raises LtsRayError where the privileges are missing.
    """
    for left in _left_behind():
        _remove(left)
    bridge = f"{PREFIX}{os.getpid()}"
    try:
        network = _free_network()
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{network}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        hosts = {}
        for number, name in enumerate(names, 1):
            link, address = f"{bridge}-{number}", f"{network}.{10 + number}"
            _ip("netns", "add", link)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", link)
            _ip("link", "set", link, "master", bridge)
            _ip("-n", link, "addr", "add", f"{address}/24", "dev", "eth0")
            for inner in ("lo", "eth0"):
                _ip("-n", link, "link", "set", inner, "up")
            hosts[name] = NetworkHost(name, link, address, FOLDERS / bridge / str(number))
            hosts[name].boot()
        yield hosts
    finally:
        _remove(bridge)


def _left_behind() -> set[str]:
    """The bridges of processes that are no more, or what else there is of them."""
    links = [link["ifname"] for link in json.loads(_ip("-j", "link") or "[]")]
    names = [*links, *_namespaces(), *(path.name for path in FOLDERS.glob(f"{PREFIX}*"))]
    made = {PREFIX + name.removeprefix(PREFIX).partition("-")[0] for name in names if name.startswith(PREFIX)}
    pids = {bridge: bridge.removeprefix(PREFIX) for bridge in made}
    return {bridge for bridge, pid in pids.items() if pid.isdecimal() and not Path("/proc", pid).exists()}


def _remove(bridge: str) -> None:
    """It, and its hosts with their processes. Where some of it is not there, the rest."""
    for name in _namespaces():
        if name.startswith(f"{bridge}-"):
            _kill(name)
            _ip("netns", "del", name)
            with suppress(LtsRayError):  # it is already gone with the namespace, mostly
                _ip("link", "del", name)
    with suppress(LtsRayError):
        _ip("link", "del", bridge)
    shutil.rmtree(FOLDERS / bridge, ignore_errors=True)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines()]


def _processes(namespace: str) -> list[int]:
    return [int(pid) for pid in _ip("netns", "pids", namespace).split()]


def _kill(namespace: str) -> None:
    while processes := _processes(namespace):
        _signal(processes, signal.SIGKILL)
        time.sleep(0.05)


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _free_network() -> str:
    """The first three numbers of a private network's addresses."""
    taken = {
        address["local"].rpartition(".")[0]
        for link in json.loads(_ip("-j", "-4", "addr"))
        for address in link["addr_info"]
    }
    return next(each for each in (f"{NETWORK}.{number}" for number in range(256)) if each not in taken)


def _ip(*words: str) -> str:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=30)
    except FileNotFoundError:
        raise LtsRayError("hosts are network namespaces, which `ip` makes: install iproute2, on Linux") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise LtsRayError(
            f"hosts are network namespaces, which take root: `ip {' '.join(words)}` says: {said}"
        ) from None
    return done.stdout
