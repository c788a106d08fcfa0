"""Where the replicas of a fleet are to be found: each says so of itself, and again every few seconds while it lives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lts_ray.record import record

REFRESH_S = 5.0
"""How often a replica says where it is."""
DEAD_S = 20.0
"""What was said longer ago is of a replica that is gone."""


@record(what="replica address")
class ReplicaAddress:
    id: str
    """Ray's name of the replica."""
    kind: str
    """Of node, as the fleet's file calls it."""
    fingerprint: str
    """Of the model and the frontier: only replicas with an ingress' own can go on with its requests."""
    host: str
    """Its node's, for the other nodes."""
    port: int
    """Of its ReplicaServer."""
    secret: str
    """To be said first on each connection."""
    at_s: float
    """When this was said, in Unix seconds."""


class Registry(Protocol):
    """May wait for a network: not to be called on an event loop."""

    def put(self, address: ReplicaAddress) -> None: ...

    def remove(self, id: str) -> None: ...

    def read(self) -> Sequence[ReplicaAddress]:
        """All that are known, those that are gone perhaps included."""
        ...
