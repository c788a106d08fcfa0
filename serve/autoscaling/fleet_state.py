"""What an autoscaler sees of a fleet. Plain data: no clock, no Ray, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaLoad:
    """What one replica says of itself and of what came to it of late. All of it are numbers: it travels as such."""

    running: float = 0.0
    """Requests that run now."""
    waiting: float = 0.0
    """Requests that wait there now."""
    window_s: float = 0.0
    """For how long, until now, the following were counted."""
    came: float = 0.0
    """Requests."""
    bounded: float = 0.0
    """Requests with a budget that ended."""
    kept: float = 0.0
    """Of these, those that kept it."""
    used_p90: float = 0.0
    """The ninth decile of the share of its nearest bound that each of the last of these took."""
    tokens: float = 0.0
    """That were made."""
    loss: float = 0.0
    """The sum over these tokens of the loss of the submodel that made each, in nats."""
    sustained: float = 0.0
    """Requests a second, as they were of late, that such a replica could bear while it keeps the wanted share of their
    budgets at no less than the wanted quality; 0: nothing is known yet."""
    worst_loss: float = 0.0
    """The mean loss of a token that is the wanted quality; 0: none is wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KindState:
    name: str
    min_replicas: int
    max_replicas: int
    cost_per_hour: float
    """Of one replica."""
    start_s: float
    """What a replica takes from being asked for until it serves, its node's start included."""
    target: int
    """How many there were to be, by the last decision."""
    replicas: Mapping[str, ReplicaLoad]
    """Those that serve, by id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetState:
    now_s: float
    """By the controller's clock, which never goes back."""
    kinds: tuple[KindState, ...]
