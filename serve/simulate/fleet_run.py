"""What became of a simulated fleet: its requests, its replicas over time, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve.simulate.request_outcome import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class KindSample:
    up: int
    """Replicas that serve."""
    coming: int
    """Replicas that were asked for and do not serve yet."""
    running: int
    """Requests."""
    waiting: int
    """Requests in the replicas' queues."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetSample:
    at_s: float
    """After the load's start."""
    kinds: Mapping[str, KindSample]
    cost: float = 0.0
    """So far, of all replicas, in the fleet file's unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetDecision:
    """One that changed how many replicas there are to be."""

    at_s: float
    targets: Mapping[str, int]
    reason: str


@dataclass(frozen=True, kw_only=True)
class FleetRun:
    outcomes: tuple[Outcome, ...]
    """In the order of the arrivals, as `places`."""
    places: tuple[str | None, ...]
    """The id of the replica that each request went to first; None: it was refused, all queues being full."""
    samples: tuple[FleetSample, ...] = ()
    """At equal distances in time."""
    decisions: tuple[FleetDecision, ...] = ()
    replica_hours: Mapping[str, float] | None = None
    """By kind: from the moment a replica is asked for until it is gone."""
    cost: float = 0.0
    """Of these hours, in the fleet file's unit."""
    migrations: int = 0
    """How often a request went on at another replica."""
