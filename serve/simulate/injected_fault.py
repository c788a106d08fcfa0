"""What goes wrong with a simulated fleet, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectedFault:
    at_s: float
    """After the load's start."""
    kind: str
    """Of node."""
    replica: int | None = None
    """Its number among those of the kind that serve then, from 0 on; None: all of them, and those that come later."""
    what: Literal["kill", "slow"] = "kill"
    """A killed replica's requests go on elsewhere; one more comes up in its place, as Ray has it. A slow one's steps
    take `factor` times as long."""
    factor: float = 1.0
    for_s: float | None = None
    """How long it is slow; None: to the end."""
