from __future__ import annotations

import asyncio
import re
from collections import Counter
from functools import partial
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import pytest

from lts_ray.models.matformer.hugging_face.checkpoint import fingerprint
from lts_ray.record import read_record
from serve.engine.fleet_observer import FleetLoad, FleetObserver
from serve.fleet.node_kind import NodeKind
from serve.fleet.replica_registry import ReplicaAddress
from serve.ingress import build_fleet, fleet_fingerprint
from serve.ray_fleet import FleetIngress, _wait_for_replica
from serve.ray_registry import FORGOTTEN_S, RayRegistry
from serve.ray_scaling import JOBS, follow_jobs
from serve.serve_args import ServeArgs
from tests.serve.fleet.fleets import MemoryRegistry
from tests.serve.metrics.test_ray_shared_metrics import DictStore
from tests.serve.test_serve_args import frontier_file


@pytest.fixture
def args(model_dir: Path, tmp_path: Path) -> ServeArgs:
    path = frontier_file(tmp_path, fingerprint(model_dir), "small", "large")
    return read_record(ServeArgs, {"model": model_dir, "frontier": path, "kinds": "small,large"})


def test_an_ingress_knows_the_model_without_its_weights(args: ServeArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lts_ray.models.matformer.hugging_face.checkpoint.load_checkpoint", None)
    fleet = build_fleet(args, fleet_fingerprint(args), MemoryRegistry(), FleetObserver())
    assert (fleet.menu.universal.name, fleet.config.vocab_size, fleet.capacity) == ("XL", 300, args.capacity(None))
    assert fleet.counts() == (0, 0)


def test_only_replicas_of_the_same_model_and_frontier_share_a_fingerprint(args: ServeArgs, tmp_path: Path) -> None:
    before = fleet_fingerprint(args)
    assert fleet_fingerprint(args.of_kind(args.node_kinds()[0])) == before
    frontier_file(tmp_path, fingerprint(args.model), "small", "large", "another")
    assert fleet_fingerprint(args) != before


def address(id: str, at_s: float) -> ReplicaAddress:
    return ReplicaAddress(id=id, kind="small", fingerprint="f", host="h", port=1, secret="s", at_s=at_s)


def test_the_registry_of_an_application_has_its_replicas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, store = 1e9, DictStore()
    monkeypatch.setattr("serve.ray_registry.time", lambda: now_s)
    mine, other = RayRegistry("a/b", store), RayRegistry("a", store)
    mine.put(address("one", now_s))
    mine.put(address("two", now_s))
    other.put(address("three", now_s))
    assert {each.id for each in mine.read()} == {"one", "two"}
    assert [each.id for each in other.read()] == ["three"]
    mine.remove("two")
    store.put("fleet/a%2Fb/old version", b'{"id": "four"}')
    assert mine.read() == [address("one", now_s)]
    now_s += FORGOTTEN_S + 1
    assert mine.read() == []
    assert "fleet/a%2Fb/one" not in store.read("fleet/")


@pytest.mark.parametrize(
    ("counted", "wanted"), [(None, 2), ({}, 2), ({JOBS: {}}, 2), ({JOBS: {"a": 12.0, "b": 8.0}}, 2.5)]
)
def test_a_kind_has_as_many_replicas_as_its_requests_fill(counted: dict[str, Any] | None, wanted: float) -> None:
    config = SimpleNamespace(get_target_ongoing_requests=lambda: 8)
    context: Any = SimpleNamespace(aggregated_metrics=counted, target_num_replicas=2, config=config)
    assert follow_jobs(context) == (wanted, {})


def test_an_ingress_passes_on_a_user_config_that_fits(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[object] = []
    ingress: Any = SimpleNamespace(_fleet=SimpleNamespace(use_config=taken.append))
    with caplog.at_level("ERROR", logger="serve.ray_fleet"):
        asyncio.run(FleetIngress.reconfigure(ingress, {"policy": "best"}))
    assert "unknown policy 'best'" in caplog.text
    asyncio.run(FleetIngress.reconfigure(ingress, {"policy": "fixed", "thresholds": {"submodel": "S"}}))
    assert taken == [{"policy": "fixed", "thresholds": {"submodel": "S"}}]


class Known(MemoryRegistry):
    """One replica, which is found at the third look."""

    looks = 0

    def read(self) -> list[ReplicaAddress]:
        self.looks += 1
        return [address("one", time())] if self.looks == 3 else []


def test_an_ingress_comes_up_with_its_first_replica_and_says_what_it_waits_for(
    args: ServeArgs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As under Ray's own `serve run`, which builds before it knows the nodes."""
    node = {"Alive": True, "Labels": {"role": "small"}, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr("serve.ray_fleet.SAY_S", -1.0)
    monkeypatch.setattr("serve.ray_fleet.sleep", lambda seconds: None)
    monkeypatch.setattr("serve.ray_deployment.ray.is_initialized", lambda: True)
    monkeypatch.setattr("lts_ray.ray_session.ray.nodes", lambda: [node])
    monkeypatch.setattr("lts_ray.ray_session.has_autoscaler", lambda: False)
    registry = Known()
    with caplog.at_level("ERROR", logger="serve.ray_fleet"):
        _wait_for_replica(registry, "f", args, args.node_kinds())
    assert registry.looks == 3
    (said,) = caplog.messages
    assert re.search(r"kind 'large' on nodes with {'role': 'large'} .* 0 have room .*{'role': 'small'}", said)


def test_a_kind_without_replicas_is_woken_once_all_others_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.ray_fleet.WAKE_S", 0.0)
    called: list[str] = []

    def handle(name: str) -> Any:
        async def call() -> None:
            called.append(name)

        return SimpleNamespace(wake=SimpleNamespace(remote=call))

    class Busy:
        jobs, replicas = 2, Counter({("small", "ready"): 1})

        async def start(self) -> None: ...

        def load(self) -> FleetLoad:
            return FleetLoad(replicas=self.replicas)

        def counts(self) -> tuple[int, int]:
            return self.jobs, 0

    async def watched() -> None:
        fleet, kinds = Busy(), (NodeKind(name="small"), NodeKind(name="spot", min_replicas=0))
        ingress: Any = SimpleNamespace(
            _fleet=fleet, _kinds=kinds, _slots={"small": 2}, _waking={}, _handles={"spot": handle("spot")}
        )
        ingress._wake = partial(FleetIngress._wake, ingress)
        running = asyncio.create_task(FleetIngress._run(ingress))
        for _ in range(20):
            await asyncio.sleep(0)
        assert called == [], "the one replica has room for both"
        fleet.jobs = 3
        while not called:
            await asyncio.sleep(0)
        fleet.replicas = Counter({("small", "ready"): 1, ("spot", "ready"): 1})
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        assert set(called) == {"spot"}

    asyncio.run(watched())
