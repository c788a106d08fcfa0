"""One simulated cluster for all tests here: a head, and an edge and a server node, on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from lts_ray.ray_session import growing_cluster, nodes_for
from lts_ray.target import Target

TARGETS = (
    Target(name="edge", label_selector={"role": "edge"}, resources={"edge": 1}, sequence_length=16),
    Target(
        name="server", label_selector={"role": "in(server)"}, resources={"server": 1}, threads=2, sequence_length=16
    ),
)


@pytest.fixture(scope="session")
def growing() -> Iterator[Cluster]:
    """Nodes may join it and leave. A test takes away what it has added."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        with growing_cluster(nodes_for(TARGETS)) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def cluster(growing: Cluster) -> str:
    """Its address. Nothing is connected to it: a test connects by itself."""
    return str(growing.address)
