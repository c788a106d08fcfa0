"""What a router could reach that knows the whole load: to which replica each request goes.

On its replica a request has the widths that the policy there gives it. Where each goes is found offline, by replaying
the load in the simulator again and again: from what other routers do, one request moved at a time, and kept if that was
no worse. So it is never worse than any of those routers on the load that it was found for; how much better one could
be still, it does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from serve.policies.policy import Policy
from serve.policies.request import Request
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Route, Router
from serve.simulate.fleet_run import FleetRun
from serve.simulate.oracle import worth
from serve.simulate.simulate_fleet import simulate_fleet
from serve.simulate.simulated_kind import SimulatedKind
from serve.traffic.arrival import Arrival

NEAR = 8
"""A request that misses its budget may be helped by moving one of so many that came before it to the same replica."""
ANY = 0.3
"""How often any request is moved: some cannot be helped, and quality counts, too."""


@dataclass(kw_only=True)
class FleetOracle:
    places: Sequence[str | None]
    """Ids of replicas, by the order in which requests come. None, or one that takes no request: the first that does."""
    name: str = "oracle"
    _turn: int = field(default=0, repr=False)

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        place = self.places[self._turn]
        self._turn += 1
        return Route(replica=place if place in {view.id for view in replicas} else replicas[0].id)


def find_fleet_oracle(
    arrivals: Sequence[Arrival],
    *,
    kinds: Sequence[SimulatedKind],
    starts: Sequence[Callable[[], Router]],
    policy: Callable[[], Policy],
    rng: np.random.Generator,
    replays: int = 200,
) -> FleetOracle:
    """starts: routers, at least one. replays: the most of the load. It is right about the costs, too: no noise."""
    certain = [
        replace(kind, node=replace(kind.node, believed=None, noise=0.0, drift=0.0, recorded=(), recorded_prompts=()))
        for kind in kinds
    ]
    ids = [id for kind in kinds for id in kind.ids]

    def played(router: Router) -> tuple[float, FleetRun]:
        run = simulate_fleet(arrivals, kinds=certain, router=router, policy=policy, rng=rng)
        return worth(run.outcomes, kinds[0].node.menu), run

    reached, run = max((played(start()) for start in starts), key=lambda found: found[0])
    for _ in range(replays - len(starts) if len(ids) > 1 and arrivals else 0):
        places = list(run.places)
        moved = _moved(run, rng)
        places[moved] = str(rng.choice([id for id in ids if id != places[moved]]))
        value, tried = played(FleetOracle(places=places))
        if value >= reached:
            reached, run = value, tried
    return FleetOracle(places=run.places)


def _moved(run: FleetRun, rng: np.random.Generator) -> int:
    """Mostly one that misses its budget, or one before it on the same replica; its place in the order."""
    missed = [place for place, outcome in enumerate(run.outcomes) if outcome.budget and not outcome.met]
    if not missed or rng.random() < ANY:
        return int(rng.integers(len(run.outcomes)))
    late = int(rng.choice(missed))
    beside = [place for place in range(late) if run.places[place] == run.places[late]][-NEAR:]
    return int(rng.choice([late, *beside]))
