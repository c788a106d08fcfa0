"""Replicas of several kinds of node behind a router, in virtual time: the routers and policies that serve, no model.

A router sees a replica as an ingress does: its requests with the tokens that have come back, not those of the step
that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serve.policies.policy import Policy
from serve.policies.request import Request
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Router
from serve.simulate.fleet_run import FleetRun
from serve.simulate.simulate import SimulatedEngine, SimulatedReplica, longest_of, replay
from serve.traffic.arrival import Arrival


@dataclass(frozen=True, kw_only=True)
class FleetReplica:
    id: str
    kind: str
    """Of node."""
    cost: float
    """Of an hour."""
    node: SimulatedReplica

    def view(self, engine: SimulatedEngine, now_ms: float) -> ReplicaView:
        return ReplicaView(
            id=self.id,
            kind=self.kind,
            cost=self.cost,
            menu=self.node.menu,
            costs=engine.costs,
            situation=engine.scheduler.situation(now_ms, engine.deviation),
        )


def simulate_fleet(
    arrivals: Sequence[Arrival],
    *,
    replicas: Sequence[FleetReplica],
    router: Router,
    policy: Callable[[], Policy],
    rng: np.random.Generator,
) -> FleetRun:
    """arrivals: in the order of their times. policy: makes one for each replica. rng: of all steps' noise."""
    longest = longest_of(arrivals)
    engines = [SimulatedEngine(replica.node, policy(), longest=longest, rng=rng) for replica in replicas]
    index = {replica.id: place for place, replica in enumerate(replicas)}
    places: list[str | None] = []
    views: dict[int, tuple[int, ReplicaView]] = {}

    def view(place: int, now_ms: float) -> ReplicaView:
        """Made anew once its jobs have changed, as an ingress does."""
        changes = engines[place].changes
        if place not in views or views[place][0] != changes:
            views[place] = (changes, replicas[place].view(engines[place], now_ms))
        return views[place][1]

    def choose(request: Request, now_ms: float) -> int | None:
        open_to = [view(place, now_ms) for place, engine in enumerate(engines) if engine.has_room]
        places.append(router.route(request, open_to, shared={}, now_ms=now_ms).replica if open_to else None)
        return None if places[-1] is None else index[places[-1]]

    return FleetRun(outcomes=replay(arrivals, engines, choose), places=tuple(places))
