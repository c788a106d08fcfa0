"""What goes wrong with a simulated fleet, and when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lts_ray.record import Positive, Text, record


@record(what="fault")
class InjectedFault:
    at_s: Annotated[float, Field(ge=0)]
    """After the load's start."""
    kind: Text
    """Of node."""
    replica: Annotated[int, Field(ge=0)] | None = None
    """Its number among those of the kind that serve then, from 0 on; None: all of them, and those that come later."""
    what: Literal["kill", "slow"] = "kill"
    """A killed replica's requests go on elsewhere; one more comes up in its place, as Ray has it. A slow one's steps
    take `factor` times as long."""
    factor: Positive = 1.0
    """Of a slow one."""
    for_s: Positive | None = None
    """How long it is slow; None: to the end."""
