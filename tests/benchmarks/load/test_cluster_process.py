from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load.cluster_process import ClusterProcess, children_of, slowed, stopped


@pytest.fixture
def busy() -> Iterator[int]:
    """A process that computes."""
    with subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        one.stdout.readline()
        yield one.pid
        one.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::ServeReplica:default:elastic", "ingress"),
        ("ray::ServeReplica:default:cpu-small", "replica"),
        ("ray::ResourceTrainable.train", "trial"),
        ("ray::MeasurementActor.measure", "actor"),
        ("ray::MeasurementPool.start", None),
        ("ray::SERVE_REPLICA::default#gpu#sswxdn25:ServeReplica:default:gpu.__init__", None),
        ("python ray::ServeReplica:", None),
    ],
)
def test_a_worker_is_known_by_how_ray_calls_it(title: str, role: str | None) -> None:
    assert ClusterProcess(1, title).role == role


def test_the_children_are_found_and_those_that_have_ended_are_not(busy: int) -> None:
    assert [each.title for each in children_of({os.getpid()}) if each.pid == busy] == [
        f"{sys.executable} -c print(flush=True)\nwhile True: pass"
    ]
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as one:
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
        assert one.pid not in {each.pid for each in children_of({os.getpid()})}


def test_what_was_stopped_goes_on_whatever_happens(busy: int) -> None:
    def failing() -> None:
        with stopped(busy):
            while state(busy) != "T":
                pass
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    while state(busy) == "T":
        pass


def test_what_was_slowed_runs_again(busy: int) -> None:
    asyncio.run(slowed(busy, 0.1))
    while state(busy) == "T":
        pass


def test_one_that_has_gone_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one, stopped(one.pid):
        one.kill()
        one.wait()
