"""What a fleet's ingress tells of itself, besides what every engine of a replica tells: to metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from serve.engine.observer import Load, Observer

ReplicaState = Literal["ready", "silent", "draining"]
MigrationReason = Literal["died", "silent", "draining"]


@dataclass(kw_only=True, slots=True)
class FleetLoad(Load):
    """What no replica has got yet: those that have one are in the replica's own load."""

    replicas: Mapping[tuple[str, ReplicaState], int] = field(default_factory=dict)
    """How many there are, by kind of node and state."""


class FleetObserver(Observer):
    """Told on the event loop that asks. `refused`, `ended` and `broken` are of requests that no replica counts: one
    that was refused here, and one that failed for good when its replica was lost."""

    def placed(self, kind: str) -> None:
        """A request was sent to a replica of this kind: at first, and each time that it moves."""

    def migrated(self, kind: str, reason: MigrationReason) -> None:
        """A replica of this kind has lost a request, which goes on at another."""

    def decided(self, seconds: float) -> None:
        """It took so long to choose a replica."""
