"""One actor, for one target on one node, and what is known of it. Nothing here knows Ray.

A worker outlives its actor's process, which may be started again, and is kept, as lost, when its node is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.selector import ClusterNode

State = Literal["idle", "measuring", "starting", "lost"]


class DiedError(Exception):
    """An actor's process ended or cannot be reached: it, or its node, is gone."""


class ActorProcess(Protocol):
    """An actor that can be started again and again on its node."""

    async def start(self) -> str | Failed:
        """Start a process in place of any there was; the identity of the physical host. Raises DiedError."""

    async def call(self, method: str, *arguments: object) -> Any:
        """What the method returns; `Failed` if it raised. Raises DiedError."""

    def stop(self) -> None: ...


@dataclass(kw_only=True, eq=False)
class PinnedWorker:
    target: str
    """Whose calls it takes."""
    label: str
    """What messages call it."""
    node: ClusterNode
    process: ActorProcess
    host: str = ""
    """Unknown, and empty, before the first start."""
    state: State = "starting"
    problem: str = ""
    """Why there is no actor now."""
    retry_s: float = 0.0
    """When a failed start is tried again, by the clock."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first start ended."""
    started_s: float | None = None
    """When the actor first was there, by the clock."""
    lost_s: float | None = None
    """When its node was gone, by the clock."""
    measuring_since_s: float | None = None
    busy_s: float = 0.0
    """Seconds in calls that ended."""
    measured: int = 0
    """Calls that ended with a result."""

    @property
    def place(self) -> str:
        return f"{self.label} on node {self.node.node_id[:8]} ({self.node.address})"

    def status(self, now_s: float) -> WorkerStatus:
        running_s = 0.0 if self.measuring_since_s is None else now_s - self.measuring_since_s
        busy_s = self.busy_s + running_s
        until_s = now_s if self.lost_s is None else self.lost_s
        there_s = 0.0 if self.started_s is None else until_s - self.started_s
        return WorkerStatus(
            target=self.target,
            node=self.node.node_id[:8],
            address=self.node.address,
            labels={key: value for key, value in self.node.labels.items() if not key.startswith("ray.io/")},
            host=self.host,
            state=self.state,
            measured=self.measured,
            busy_s=busy_s,
            utilisation=min(1.0, busy_s / there_s) if there_s > 0 else 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """One worker now."""

    target: str
    node: str
    """The first characters of Ray's id."""
    address: str
    labels: Mapping[str, str]
    host: str
    state: State
    measured: int
    """Calls that ended with a result."""
    busy_s: float
    """Seconds in calls."""
    utilisation: float
    """Their share of the time since the actor's first start, up to its node's loss."""


@dataclass(frozen=True, kw_only=True)
class PoolStatus:
    workers: tuple[WorkerStatus, ...]
    messages: tuple[str, ...]
    """What a person should know now, a line each: targets that wait for a node, actors that do not start."""
