"""The fleets that a benchmark sends its loads to, behind one router after the other: simulated, or in processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from time import thread_time

import numpy as np

from benchmarks.load.clients import engine_client, replay_load
from benchmarks.load.fleet_folder import FleetKind, FleetSetup
from benchmarks.load.local_model import LocalModel
from benchmarks.load.policies_folder import Cell
from benchmarks.load.replica_processes import ReplicaProcesses
from serve.policies.deadline import DeadlinePolicy
from serve.policies.menu import Option
from serve.policies.request import Request
from serve.routing.named_routers import ROUTERS, router_named
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Route, Router
from serve.simulate.fleet_oracle import find_fleet_oracle
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import SimulatedReplica
from serve.simulate.simulate_fleet import simulate_fleet
from serve.simulate.simulated_kind import SimulatedKind
from serve.traffic.arrival import Arrival
from serve.traffic.load import make_prompts

ORACLE = "oracle"
LEARNED = 0.99
"""The attainment for which simulated replicas learn their reserves of time, as engines do by default."""
NOISE, SEARCH = 13, 14
"""The streams of random numbers of simulated steps and the oracle's search; see serve.traffic.load for others."""


def router_for(name: str, setup: FleetSetup, universal: Option) -> Router:
    """The grid of the static one: a kind gets what the next slower one could not keep with the universal model."""
    if name != "static-grid":
        return router_named(name)
    kinds = sorted(setup.settings.kinds, key=lambda kind: -kind.speed)
    step = universal.group(setup.capacity.slots, 0, setup.capacity.slots)
    most_ms = [setup.costs[kind.name].step_ms([step]) for kind in kinds[1:]]
    return router_named(name, kinds=[(ms, kind.name) for ms, kind in zip([*most_ms, inf], kinds, strict=True)])


def simulated_kind(kind: FleetKind, node: SimulatedReplica) -> SimulatedKind:
    count = kind.replicas
    return SimulatedKind(
        name=kind.name, cost_per_hour=kind.speed, node=node, replicas=count, min_replicas=count, max_replicas=count
    )


@dataclass(frozen=True, kw_only=True)
class SimulatedFleet:
    setup: FleetSetup
    model: LocalModel

    @property
    def kinds(self) -> list[SimulatedKind]:
        def node(kind: FleetKind) -> SimulatedReplica:
            of_kind = self.model.replica(self.setup.costs[kind.name])
            return replace(of_kind, noise=self.setup.settings.noise, attainment=LEARNED)

        return [simulated_kind(kind, node(kind)) for kind in self.setup.settings.kinds]

    async def play(self, cell: Cell, arrivals: Sequence[Arrival]) -> Sequence[Outcome]:
        return self._run(self._router(cell, arrivals), cell, arrivals)

    def decisions_ms(self, cell: Cell, arrivals: Sequence[Arrival]) -> list[float]:
        """What each decision took of a core, in the midst of a load, as an ingress of all replicas would have it."""
        timed = TimedRouter(self._router(cell, arrivals))
        self._run(timed, cell, arrivals)
        return timed.times_ms

    def _router(self, cell: Cell, arrivals: Sequence[Arrival]) -> Router:
        known = partial(router_for, setup=self.setup, universal=self.model.menu.universal)
        if cell.policy != ORACLE:
            return known(cell.policy)
        return find_fleet_oracle(
            arrivals,
            kinds=self.kinds,
            starts=[partial(known, name) for name in ROUTERS],
            policy=DeadlinePolicy,
            rng=np.random.default_rng([cell.seed, SEARCH]),
            replays=self.setup.settings.replays,
        )

    def _run(self, router: Router, cell: Cell, arrivals: Sequence[Arrival]) -> Sequence[Outcome]:
        rng = np.random.default_rng([cell.seed, NOISE])
        return simulate_fleet(arrivals, kinds=self.kinds, router=router, policy=DeadlinePolicy, rng=rng).outcomes


class TimedRouter:
    name = "timed"

    def __init__(self, router: Router) -> None:
        self._router = router
        self.times_ms: list[float] = []

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        begin_s = thread_time()
        route = self._router.route(request, replicas, shared=shared, now_ms=now_ms)
        self.times_ms.append(1e3 * (thread_time() - begin_s))
        return route


@dataclass(frozen=True, kw_only=True)
class RealFleet:
    setup: FleetSetup
    model: LocalModel
    processes: ReplicaProcesses

    async def play(self, cell: Cell, arrivals: Sequence[Arrival]) -> Sequence[Outcome]:
        """By the client's clock."""
        router = router_for(cell.policy, self.setup, self.model.menu.universal)
        prompts = list(make_prompts(arrivals, seed=cell.seed, vocab_size=self.model.config.vocab_size))
        outcomes: dict[int, Outcome] = {}
        async with self.processes.fleet(router, self.model) as fleet:
            ask = engine_client(fleet, by_client=True)
            await replay_load(ask, arrivals, prompts, clock=fleet.clock, ended=outcomes.__setitem__)
        return [outcomes[number] for number in range(len(arrivals))]
