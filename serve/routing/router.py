"""What a router sees when a request comes, and what it answers. Plain data: no clock, no Ray, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.policies.budget import Timing
from serve.policies.request import Request
from serve.routing.replica_view import ReplicaView


@dataclass(frozen=True, kw_only=True)
class Route:
    replica: str
    """Its id."""
    submodel: str | None = None
    """With which it is expected to begin; None where the router does not look ahead."""
    predicted: Timing | None = None
    loss: float | None = None
    """Of that submodel, in nats a token; None where none was measured."""
    met: bool | None = None
    """Whether the budget is predicted to hold; None without one, or without a look ahead."""
    others: tuple[Route, ...] = ()
    """What would have come of it on other replicas, as far as they were asked."""


class Router(Protocol):
    @property
    def name(self) -> str:
        """As on the command line and in metrics."""
        ...

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        """replicas: at least one, each of which fits the request and has a place for it.

        shared: tokens of the prompt whose keys and values a replica holds already, by id.
        """
        ...
