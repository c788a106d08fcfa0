"""A request of a client on its way through the fleet: where it is, and all that has come of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lts_ray.submodel import Submodel
from serve.engine.response import Response
from serve.fleet.frames import REQUESTS, adapted
from serve.fleet.replica_link import ReplicaLink
from serve.policies.menu import Menu
from serve.policies.request import Request


@dataclass(kw_only=True, eq=False, slots=True)
class RoutedRequest:
    request: Request
    arrived_s: float
    """By the ingress' clock; so is `first_s`."""
    response: Response = field(init=False)
    number: int = -1
    """At the replica that has it, another one at each."""
    link: ReplicaLink | None = None
    """None while it waits for a replica."""
    tokens: list[int] = field(default_factory=list)
    first_s: float | None = None
    runs: bool = False
    placed: int = 0
    """How many replicas have had it."""
    waits_since_s: float = 0.0
    """For a replica."""

    def submodel(self, menu: Menu) -> Submodel | None:
        """None where the replica chooses it."""
        return None if self.request.elastic else (self.request.pinned or menu.universal).submodel

    def to_json(self, offset_s: float) -> dict[str, object]:
        """For the replica that has it now. offset_s: of this clock before the replica's."""
        resumed: dict[str, object] = {}
        if self.placed > 1:
            resumed = {"resumed": self.tokens, "first_s": None if self.first_s is None else self.first_s - offset_s}
        request, arrived_s = adapted(REQUESTS, self.request), self.arrived_s - offset_s
        return {"number": self.number, "request": request, "arrived_s": arrived_s} | resumed

    def left(self, now_s: float) -> Request:
        """What is to be done yet, as a request that comes now: for the choice of a replica."""
        return self.request.left((now_s - self.arrived_s) * 1e3, self.tokens, moved=self.placed > 0)
