"""A seat: one actor, for one target on one node, and what is known of it. Nothing here knows Ray.

A seat outlives its actor's process, which may be started again, and is kept, as lost, when its node is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.selector import ClusterNode

State = Literal["idle", "measuring", "starting", "lost"]


class DiedError(Exception):
    """An actor's process ended or cannot be reached: it, or its node, is gone."""


class Worker(Protocol):
    """An actor that can be started again and again on its node."""

    async def start(self) -> str | Failed:
        """Start a process in place of any there was; the identity of the physical host. Raises DiedError."""

    async def call(self, method: str, *arguments: object) -> Any:
        """What the method returns; `Failed` if it raised. Raises DiedError."""

    def stop(self) -> None: ...


@dataclass(kw_only=True, eq=False)
class Seat:
    """target: whose calls it takes. label: what messages call it. host: unknown, and empty, before the first start.

    problem: why there is no actor now. tried: set when the first start ended. started_s, lost_s: by the clock.
    """

    target: str
    label: str
    node: ClusterNode
    worker: Worker
    host: str = ""
    state: State = "starting"
    problem: str = ""
    retry_s: float = 0.0
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    started_s: float | None = None
    lost_s: float | None = None
    measuring_since_s: float | None = None
    busy_s: float = 0.0
    measured: int = 0

    @property
    def place(self) -> str:
        return f"{self.label} on node {self.node.node_id[:8]} ({self.node.address})"

    def status(self, now_s: float) -> SeatStatus:
        running_s = 0.0 if self.measuring_since_s is None else now_s - self.measuring_since_s
        busy_s = self.busy_s + running_s
        until_s = now_s if self.lost_s is None else self.lost_s
        there_s = 0.0 if self.started_s is None else until_s - self.started_s
        return SeatStatus(
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
class SeatStatus:
    """One seat now. node: the first characters of Ray's id. measured: calls that ended.

    busy_s: seconds in calls. utilisation: their share of the time since the actor's first start, up to its node's loss.
    """

    target: str
    node: str
    address: str
    labels: Mapping[str, str]
    host: str
    state: State
    measured: int
    busy_s: float
    utilisation: float


@dataclass(frozen=True, kw_only=True)
class PoolStatus:
    """messages: what a person should know now, a line each: targets that wait for a node, actors that do not start."""

    seats: tuple[SeatStatus, ...]
    messages: tuple[str, ...]


def hosts(seats: Sequence[Seat]) -> int:
    """How many physical hosts take part now."""
    return len({seat.host for seat in seats if _takes_part(seat)})


def slots(seats: Sequence[Seat], *, loss: str) -> int:
    """How many evaluations keep every host busy now. loss: the target of the seat for the loss, where there is one.

    As many as the target with the most hosts can measure at once, and one more that waits, so that no host waits for
    the driver; one more again for the loss, where its host measures nothing.
    """
    of_target: dict[str, set[str]] = {}
    for seat in seats:
        if _takes_part(seat):
            of_target.setdefault(seat.target, set()).add(seat.host)
    of_loss = of_target.pop(loss, set())
    measuring = set().union(*of_target.values())
    return max((len(each) for each in of_target.values()), default=1) + 1 + len(of_loss - measuring)


def _takes_part(seat: Seat) -> bool:
    return seat.state != "lost" and seat.started_s is not None
