"""Several Ray nodes on one machine, each with its labels and resources: for tests, `search --simulate` and quickstart.

The nodes share the machine's cores. Measurements notice that they share one host and take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.cluster_utils import Cluster

from lts_ray.measurement.target import Target


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
    """As `simulated_cluster`, for whoever lets nodes `join` and leave (`Cluster.remove_node`) while it runs."""
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
