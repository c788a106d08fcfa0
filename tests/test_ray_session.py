"""Connecting to Ray: what is no cluster ends in one line, and what a shell has exported for jobs breaks nothing."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import ray
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from lts_ray import ray_session
from lts_ray.errors import LtsRayError
from lts_ray.ray_session import check_room, connected


class Head(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):  # type: ignore[misc]  # generated code has no types
    """The one method of a cluster's head that is asked first."""

    def __init__(self, version: str, refuses: bool) -> None:
        self._version, self._refuses = version, refuses

    def CheckAlive(self, request: Any, context: Any) -> Any:  # noqa: N802  # Ray's name
        if self._refuses:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")
        return gcs_service_pb2.CheckAliveReply(ray_version=self._version)


@contextmanager
def head(version: str = ray.__version__, *, refuses: bool = False) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Head(version, refuses), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `ray.init` was told to connect to; it starts nothing."""
    addresses: list[str] = []
    monkeypatch.setattr(ray, "init", lambda *, address, **_: addresses.append(address))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return addresses


def refusal(address: str | None) -> str:
    with pytest.raises(LtsRayError) as refused, connected(address):
        pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("place", ["option", "environment"])
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: .*Connection refused; is its head up"),
        ("nowhere.invalid:6379", "no Ray cluster at nowhere.invalid:6379: "),
        ("ray://127.0.0.1:10001", "give HOST:6379 on one of the cluster's nodes"),
        ("foo", "'foo' is not the address of a Ray cluster: give HOST:6379, `auto` or `local`"),
        ("127.0.0.1", "is not the address"),
        ("host:port", "is not the address"),
        ("127.0.0.1:99999", "is not the address"),
        (":6379", "is not the address"),
        ("a:6379/b", "is not the address"),
        (" ", "is not the address"),
    ],
)
@pytest.mark.usefixtures("started")
def test_what_is_no_cluster_is_one_line(
    address: str, message: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(LtsRayError, match=message):
        raise LtsRayError(refusal(address if place == "option" else None))


def test_a_port_that_takes_connections_and_says_nothing_is_given_up(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no Ray cluster at" in refusal(f"127.0.0.1:{silent.getsockname()[1]}")
    assert started == []


def test_a_cluster_of_another_ray_and_one_that_wants_a_token_are_named(started: list[str]) -> None:
    with head("2.9.0") as address:
        assert f"runs Ray 2.9.0, and this is Ray {ray.__version__}" in refusal(address)
    with head(refuses=True) as address:
        assert "`export RAY_AUTH_MODE=token`" in refusal(address)
    assert started == []
    with head() as address, connected(address):
        assert started == [address]


def test_a_cluster_of_another_python_is_told_in_one_line(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Python: 3.9.1\nThis process: 3.11")

    monkeypatch.setattr(ray, "init", refuse)
    with head() as address:
        assert "cannot be used: Version mismatch: The cluster was started with: Python: 3.9.1" in refusal(address)


@pytest.mark.parametrize("exported", ["", "http://127.0.0.1:8265", "https://cluster.example.org"])
@pytest.mark.parametrize("given", [None, ""])
def test_an_address_for_jobs_or_an_empty_one_breaks_no_command(
    exported: str, given: str | None, started: list[str], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", exported)
    with connected(given):
        assert started == ["local"]
        assert not os.environ.get("RAY_ADDRESS")
    assert os.environ["RAY_ADDRESS"] == exported
    assert ("is where jobs are submitted" in caplog.text) == bool(exported)


@pytest.mark.usefixtures("started")
def test_an_address_for_jobs_that_is_given_for_this_command_is_refused() -> None:
    assert "or `auto` on one of the cluster's nodes" in refusal("http://127.0.0.1:8265")


def test_ray_does_not_keep_the_signal_that_ends_a_command(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own handler would end the process without our last line."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    with connected(None):
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("count", "needed", "labels", "message"),
    [
        (3, {"CPU": 1.0}, None, None),
        (4, {"CPU": 1.0}, None, "4 of {'CPU': 1.0} each are asked for, and 3 have room on the cluster's 2 nodes"),
        (1, {"CPU": 2.0}, None, None),
        (2, {"CPU": 2.0}, None, "and 1 have room"),
        (1, {"CPU": 1.0, "GPU": 1.0}, None, "{'role': 'a'} with {'CPU': 2.0, 'GPU': 0}; {'CPU': 1.0, 'GPU': 0}"),
        (2, {"CPU": 1.0}, {"role": "a"}, None),
        (1, {"CPU": 1.0}, {"role": "b"}, "and 0 have room"),
    ],
)
def test_what_no_node_will_ever_hold_is_told_with_what_there_is(
    count: int,
    needed: dict[str, float],
    labels: dict[str, str] | None,
    message: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def node(cpus: float, alive: bool, **labels: str) -> dict[str, Any]:
        return {"Alive": alive, "Labels": labels | {"ray.io/x": "1"}, "Resources": {"CPU": cpus, "memory": 1e9}}

    monkeypatch.setattr(ray, "nodes", lambda: [node(2.0, True, role="a"), node(1.0, True), node(64.0, False)])
    monkeypatch.setattr(ray_session, "has_autoscaler", lambda: False)

    def check() -> str | None:
        fits = (lambda own: True) if labels is None else lambda own: labels.items() <= own.items()
        return check_room(count, needed, what="workers", fits=fits)

    if message is None:
        assert check() is None
        return
    with pytest.raises(LtsRayError) as refused:
        check()
    assert message in str(refused.value)
    monkeypatch.setattr(ray_session, "has_autoscaler", lambda: True)
    assert check() == str(refused.value)  # nodes that are not there yet may come
