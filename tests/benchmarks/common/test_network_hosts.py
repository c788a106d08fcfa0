"""Network namespaces as hosts, where they may be made here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.common.network_hosts import FOLDERS, PREFIX, NetworkHost, network_hosts
from lts_ray.errors import LtsRayError
from tests.conftest import ROOT

PORT = 9
SERVER = f"""
import socket
server = socket.create_server(("", {PORT}))
while True:
    server.accept()[0].sendall(open("/proc/sys/kernel/random/boot_id", "rb").read())
"""
CLIENT = f"import socket, sys; print(socket.create_connection((sys.argv[1], {PORT}), 600).recv(99).decode())"
MAKER = """
import time
from benchmarks.common.network_hosts import network_hosts
with network_hosts(["a"]) as hosts:
    hosts["a"].start("sleep", "1000", log=hosts["a"].folder / "log")
    print("made", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Mapping[str, NetworkHost]]:
    try:
        made = network_hosts(["a", "b"])
        both = made.__enter__()
    except LtsRayError as error:
        pytest.skip(str(error))
    try:
        yield both
    finally:
        made.__exit__(None, None, None)
    assert traces(os.getpid()) == []


def traces(pid: int) -> list[str]:
    """All that there is of a process's hosts."""
    listed = [
        subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
        for words in (["netns"], ["link"])
    ]
    found = [word for text in listed for word in text.split() if word.startswith(f"{PREFIX}{pid}")]
    return [*found, *map(str, FOLDERS.glob(f"{PREFIX}{pid}*"))]


def made() -> subprocess.Popen[str]:
    """Another process, which has made a host."""
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert maker.stdout is not None
    assert maker.stdout.readline() == "made\n"
    return maker


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.02)


def asked(address: str, timeout: float = 600.0) -> bytes:
    with socket.create_connection((address, PORT), timeout) as connection:
        return connection.recv(99)


def answers(address: str) -> bool:
    try:
        return bool(asked(address, 0.5))
    except OSError:
        return False


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


def test_hosts_reach_one_another_until_a_cable_is_pulled(hosts: Mapping[str, NetworkHost], tmp_path: Path) -> None:
    a, b = hosts["a"], hosts["b"]
    log = tmp_path / "log"
    for host in hosts.values():
        host.start(sys.executable, "-c", SERVER, log=log)
    until(lambda: answers(a.address) and answers(b.address))
    assert a.start(sys.executable, "-c", CLIENT, b.address, log=log).wait() == 0
    assert log.read_bytes().split() == asked(b.address).split()
    assert len({asked(a.address), asked(b.address), Path("/proc/sys/kernel/random/boot_id").read_bytes()}) == 3
    b.cut()
    assert not answers(b.address)
    assert asked(a.address)
    b.mend()
    until(lambda: answers(b.address))
    before = asked(b.address)
    b.kill()
    assert b.processes() == []
    assert len(a.processes()) == 1
    b.boot()
    b.start(sys.executable, "-c", SERVER, log=log)
    until(lambda: answers(b.address))
    assert asked(b.address) != before
    for host in hosts.values():
        host.kill()
        host.boot()


def test_a_slowed_hosts_processes_take_breaks_and_then_go_on(hosts: Mapping[str, NetworkHost], tmp_path: Path) -> None:
    here = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    there = hosts["a"].start(sys.executable, "-c", "while True: pass", log=tmp_path / "log")
    until(lambda: there.pid in hosts["a"].processes())
    with hosts["a"].slowed(0.5):
        until(lambda: state(there.pid) == "T")
        until(lambda: state(there.pid) == "R")
        assert state(here.pid) != "T"
    assert state(there.pid) != "T"
    here.kill()
    hosts["a"].kill()
    hosts["a"].boot()


def test_nothing_is_left_of_runs_that_end_early(hosts: Mapping[str, NetworkHost]) -> None:
    """After Ctrl-C at once; what a kill leaves is removed before others make hosts."""
    killed = made()
    killed.kill()
    killed.communicate()
    assert traces(killed.pid) != []
    interrupted = made()
    assert traces(killed.pid) == []
    assert traces(os.getpid()) != []
    interrupted.send_signal(signal.SIGINT)
    interrupted.communicate()
    assert traces(interrupted.pid) == []
