"""A connection to Ray: to a cluster that exists, or to several nodes simulated on this machine.

Simulated nodes have their own labels and resources, for tests, `search --simulate` and the quickstart. They share the
machine's cores: measurements notice that they share one host and take turns.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.cluster_utils import Cluster

from lts_ray.errors import LtsRayError
from lts_ray.target import Target

QUIET_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: 10 ms a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours to report
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connected to Ray, quietly; what this connects, it disconnects."""
    before = {name: os.environ.get(name) for name in QUIET_TUNE}
    os.environ.update(QUIET_TUNE)
    levels = {name: logging.getLogger(name).level for name in ("ray", "ray.tune")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    mine = not ray.is_initialized()
    try:
        if mine:
            _connect(address)
        yield
    finally:
        if mine:
            ray.shutdown()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _connect(address: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    where = address or os.environ.get("RAY_ADDRESS")
    if where is None:  # ray.init without an address would join any cluster that it finds on this machine
        where = "local"
        options |= {"include_dashboard": False}
    try:
        ray.init(address=where, **options)
    except ConnectionError as error:
        raise LtsRayError(f"no Ray cluster at {address!r}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True, kw_only=True)
class SimulatedNode:
    name: str
    num_cpus: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


def nodes_for(targets: Sequence[Target]) -> tuple[SimulatedNode, ...]:
    """One node for each target that is not local, which the target's selector and resources fit.

    A selector that only excludes values (`!a`) is met by a node without the label.
    """
    return tuple(
        SimulatedNode(
            name=target.name,
            num_cpus=target.threads,
            labels={key: _first_value(text) for key, text in target.label_selector.items() if text[:1] != "!"},
            resources={name: amount for name, amount in target.resources.items() if name not in ("CPU", "GPU")},
        )
        for target in targets
        if not target.local
    )


@contextmanager
def simulated_cluster(nodes: Sequence[SimulatedNode], *, head_cpus: int = 2) -> Iterator[str]:
    """Start a head and the nodes; yield the cluster's address. Ends every process, and this one's connection to it."""
    with growing_cluster(nodes, head_cpus=head_cpus) as cluster:
        yield cluster.address


@contextmanager
def growing_cluster(nodes: Sequence[SimulatedNode], *, head_cpus: int = 2) -> Iterator[Cluster]:
    """As `simulated_cluster`, where nodes may `join` and leave (`Cluster.remove_node`) while it runs."""
    cluster = Cluster(
        initialize_head=True,
        shutdown_at_exit=True,
        head_node_args={"num_cpus": head_cpus, "include_dashboard": False},
    )
    try:
        for node in nodes:
            join(cluster, node)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def join(cluster: Cluster, node: SimulatedNode) -> Any:
    """Start one more node; Ray's object for it, which `Cluster.remove_node` takes."""
    return cluster.add_node(num_cpus=node.num_cpus, labels=dict(node.labels), resources=dict(node.resources))


def _first_value(constraint: str) -> str:
    text = constraint.strip()
    return text[3:-1].split(",")[0].strip() if text.startswith("in(") else text
