"""What an autoscaler answers, and what all of them are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from serve.autoscaling.fleet_state import FleetState


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    targets: Mapping[str, int]
    """Replicas of each kind, by name; within the kind's bounds."""
    reason: str
    """One line for people."""


class Autoscaler(Protocol):
    """Asked again and again, every few seconds. It may remember what it saw; all else comes with the state."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    def decide(self, state: FleetState) -> Scaling: ...
