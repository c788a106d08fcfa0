"""One simulated cluster for all tests here: a head, and an edge and a server node, on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lts_ray.ray_session import nodes_for, simulated_cluster
from lts_ray.target import Target

TARGETS = (
    Target(name="edge", label_selector={"role": "edge"}, resources={"edge": 1}, sequence_length=16),
    Target(
        name="server", label_selector={"role": "in(server)"}, resources={"server": 1}, threads=2, sequence_length=16
    ),
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Its address. Nothing is connected to it: a test connects by itself."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        with simulated_cluster(nodes_for(TARGETS)) as address:
            yield address
