"""Nodes that leave and join while a pool evaluates; each node pretends to be a host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from lts_ray.measurement.on_ray.pinned_worker import PoolStatus
from lts_ray.measurement.on_ray.pool import start_pool
from lts_ray.measurement.outcome import Evaluation
from lts_ray.measurement.workload import Workload
from lts_ray.ray_session import SimulatedNode, connected, join
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from tests.cluster.actors import LonelyActor

GROWING = Target(name="growing", label_selector={"role": "growing"}, resources={"slot": 1})
NODE = SimulatedNode(name="growing", labels={"role": "growing"}, resources={"slot": 1})
SLOW = Submodel((8,))


@pytest.fixture(autouse=True)
def _driver(growing: Cluster) -> Iterator[None]:
    """Connected, beside two more nodes; whichever have joined by then leave at the end."""
    before = set(growing.worker_nodes)
    for _ in range(2):
        join(growing, NODE)
    with connected(growing.address):
        yield
    for node in set(growing.worker_nodes) - before:
        growing.remove_node(node)


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.05)


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def status(pool: Any) -> PoolStatus:
    found: PoolStatus = ray.get(pool.status.remote())
    return found


def states(pool: Any) -> list[str]:
    return [worker.state for worker in status(pool).workers]


def remove(cluster: Cluster, node_id: str, *, gracefully: bool) -> None:
    (node,) = (each for each in cluster.worker_nodes if each.node_id == node_id)
    cluster.remove_node(node, allow_graceful=gracefully)


def test_evaluations_outlive_their_nodes_and_use_those_that_join(growing: Cluster, tmp_path: Path) -> None:
    """One story, because each of its nodes takes seconds: two nodes, then one, none, one, two."""
    record, go = tmp_path / "record", tmp_path / "go"
    pool = start_pool(Workload(source=None, payload=str(record), actor_class=LonelyActor), (GROWING,))
    assert states(pool) == ["idle", "idle"]
    assert len({worker.host for worker in status(pool).workers}) == 2

    evaluation = pool.evaluate.remote(SLOW, 1.0)
    until(lambda: len(lines(record)) == 1)
    remove(growing, lines(record)[0], gracefully=False)
    until(lambda: len(lines(record)) == 2)
    first, second = lines(record)
    assert first != second
    until(lambda: sorted(states(pool)) == ["lost", "measuring"])

    remove(growing, second, gracefully=True)
    waits = "target 'growing' has no node now: 1 evaluation waits for one that matches {'role': 'growing'}"
    until(lambda: status(pool).messages == (waits,))
    assert states(pool) == ["lost", "lost"]
    join(growing, NODE)
    until(lambda: len(lines(record)) == 3)
    assert status(pool).messages == ()
    go.touch()
    assert isinstance(ray.get(evaluation), Evaluation)
    assert sorted(worker.measured for worker in status(pool).workers) == [0, 0, 1]

    go.unlink()
    join(growing, NODE)
    until(lambda: states(pool) == ["lost", "lost", "idle", "idle"])
    evaluations = [pool.evaluate.remote(SLOW, 1.0) for _ in range(2)]
    until(lambda: len(lines(record)) == 5)
    assert len(set(lines(record)[3:])) == 2
    go.touch()
    assert all(isinstance(each, Evaluation) for each in ray.get(evaluations))
    ray.kill(pool)
