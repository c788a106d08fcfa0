"""Replicas of several kinds of node behind a router, in virtual time: the routers and policies that serve, no model.

Requests come and go on, replicas come up, drain and die as with the endpoint; a router sees a replica as an ingress
does: its requests with the tokens that have come back, not those of the step that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf

import numpy as np

from lts_ray.runtime.runtime import BLOCK_TOKENS
from serve.autoscaling.autoscaler import Autoscaler
from serve.fleet.fleet_engine import PENDING_S
from serve.policies.policy import Policy
from serve.routing.router import Router
from serve.routing.shortlist import Shortlist
from serve.simulate.agenda import Agenda
from serve.simulate.fleet_run import FleetRun
from serve.simulate.injected_fault import InjectedFault
from serve.simulate.request_outcome import Outcome, refused
from serve.simulate.served_request import ServedRequest
from serve.simulate.simulate import longest_of
from serve.simulate.simulated_kind import SimulatedKind
from serve.simulate.simulated_life import SimulatedLife
from serve.simulate.simulated_replicas import SimulatedReplicas
from serve.traffic.arrival import Arrival

MAX_MIGRATIONS = 2
"""So often a request goes on elsewhere, as the endpoint's default has it."""
TOLD = 256
"""Requests after which the progress is told."""


def simulate_fleet(
    arrivals: Sequence[Arrival],
    *,
    kinds: Sequence[SimulatedKind],
    router: Router,
    policy: Callable[[], Policy],
    rng: np.random.Generator,
    autoscaler: Autoscaler | None = None,
    tick_s: float = 10.0,
    faults: Sequence[InjectedFault] = (),
    sample_s: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> FleetRun:
    """What becomes of each request, and of the replicas until the last one is done with.

    arrivals: in the order of their times; made as they are asked for, if they are many. policy: makes one for each
    replica. rng: of all steps' noise. autoscaler: asked every `tick_s`; None: as many replicas as there are at first.
    sample_s: None: no samples. progress: told the share of the requests that are done with. Raises LtsRayError for a
    fault of an unknown kind.
    """
    run = _Simulation(arrivals, kinds=kinds, router=router, policy=policy, rng=rng)
    for fault in faults:
        run.replicas.expect(fault)
    if autoscaler is not None:
        run.agenda.every(tick_s, partial(run.replicas.scale, autoscaler), first_s=tick_s)
    if sample_s is not None:
        run.agenda.every(sample_s, run.replicas.sample, first_s=0.0)
    return run.played(progress)


class _Simulation:
    """What happens at one moment: steps end, replicas come and go, requests come, steps begin."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        *,
        kinds: Sequence[SimulatedKind],
        router: Router,
        policy: Callable[[], Policy],
        rng: np.random.Generator,
    ) -> None:
        self.agenda = Agenda()
        self._arrivals, self._router, self._policy, self._rng = arrivals, router, policy, rng
        self._longest = longest_of(arrivals)
        blocks = [kind.node.n_blocks for kind in kinds if kind.node.n_blocks is not None]
        self._fit_everywhere = min(blocks, default=10**9) * BLOCK_TOKENS
        self._max_pending = max(kind.node.capacity.max_queue for kind in kinds)
        self._begun: dict[SimulatedLife, None] = {}  # those that may begin a step
        self._pending: list[ServedRequest] = []
        self._outcomes: list[Outcome | None] = [None] * len(arrivals)
        self._places: list[str | None] = [None] * len(arrivals)
        self._done = self._migrations = 0
        shortlist = Shortlist(rng.spawn(1)[0])  # what is drawn for steps stays as it is
        self.replicas = SimulatedReplicas(
            kinds, self.agenda, shortlist, start=self._start, lost=self._move, changed=self._wake
        )

    def played(self, progress: Callable[[float], None] | None) -> FleetRun:
        agenda, arrivals, count, told = self.agenda, enumerate(self._arrivals), len(self._arrivals), 0
        coming = next(arrivals, None)
        while self._done < count:
            now_ms = max(agenda.now_ms, min(agenda.next_ms, inf if coming is None else coming[1].at_ms))
            agenda.go_on(now_ms)
            if self._pending:
                self._place_pending()
            while coming is not None and coming[1].at_ms <= now_ms:
                self._come(ServedRequest(*coming, coming[1].request()))
                coming = next(arrivals, None)
            for life in self._begun:
                life.begin(now_ms)
                if life.ends_ms != life.awaited_ms:
                    life.awaited_ms = life.ends_ms
                    agenda.at(life.ends_ms, partial(self._finish, life), ends_step=True)
            self._begun.clear()
            if progress is not None and self._done >= told:
                progress(self._done / count)
                told = self._done + TOLD
        return self._run()

    def _start(self, kind: SimulatedKind, number: int) -> SimulatedLife:
        asked_ms, longest = self.agenda.now_ms, self._longest
        return SimulatedLife(kind, number, self._policy(), asked_ms=asked_ms, longest=longest, rng=self._rng)

    def _wake(self, life: SimulatedLife) -> None:
        self._begun[life] = None

    def _finish(self, life: SimulatedLife) -> None:
        if life.ends_ms > self.agenda.now_ms:
            return  # it is gone meanwhile
        for served in life.catch_up(self.agenda.now_ms):
            outcome = served.outcome(self.agenda.now_ms + life.kind.node.delivery_ms)
            life.ended(served, outcome.timing)
            self._end(served, outcome)
        self._wake(life)
        self.replicas.let_go(life)

    def _come(self, served: ServedRequest) -> None:
        if not self.replicas.usable and len(self._pending) < self._max_pending:
            self._wait([served])
        elif not self._place(served):
            fits = not self.replicas.usable or any(life.fits(served.request) for life in self.replicas.usable.values())
            self._end(served, refused(served.arrival, "rejected" if fits else "failed", {}))

    def _place(self, served: ServedRequest) -> bool:
        """False where no replica has a place for it, or it is strict and none would keep its budget."""
        taken_on, now_ms, lives = served.placed > 0, self.agenda.now_ms, self.replicas.usable
        everywhere = len(served.request.prompt) + served.request.max_tokens <= self._fit_everywhere

        def load(id: str) -> float | None:
            life = lives[id]
            fits = everywhere or life.fits(served.request)
            return life.load if fits and (taken_on or life.has_place) else None

        views = [lives[id].view(now_ms) for id in self.replicas.shortlist.draw(load)]
        if not views and (open_to := [id for id in lives if load(id) is not None]):
            views = [lives[open_to[0]].view(now_ms)]
        if not views:
            return False
        route = self._router.route(served.left(now_ms), views, shared={}, now_ms=now_ms)
        if served.request.strict and route.met is False and not taken_on:
            return False
        life = lives[route.replica]
        life.expect(served, now_ms)
        if not taken_on:
            self._places[served.number] = life.id
        if life.kind.node.hand_over_ms:
            self.agenda.at(now_ms + life.kind.node.hand_over_ms, partial(self._hand_over, life, served))
        else:
            self._hand_over(life, served)
        return True

    def _hand_over(self, life: SimulatedLife, served: ServedRequest) -> None:
        if life.gone:
            return  # it goes on elsewhere
        if not life.take(served, self.agenda.now_ms):
            self._wait([served])
        self._wake(life)

    def _wait(self, requests: Iterable[ServedRequest]) -> None:
        """For a replica."""
        until_ms = self.agenda.now_ms + PENDING_S * 1e3
        for served in requests:
            served.gives_up_ms = until_ms
            self._pending.append(served)
        self.agenda.at(until_ms, self._give_up)

    def _give_up(self) -> None:
        now_ms = self.agenda.now_ms
        self._fail([served for served in self._pending if served.gives_up_ms <= now_ms])
        self._pending = [served for served in self._pending if served.gives_up_ms > now_ms]

    def _place_pending(self) -> None:
        for served in sorted(self._pending, key=lambda each: (each.request.priority, each.number)):
            if self._place(served):
                self._pending.remove(served)

    def _move(self, lost: Sequence[ServedRequest]) -> None:
        """What a replica had that is gone."""
        moved = [served for served in lost if served.placed <= MAX_MIGRATIONS]
        self._fail([served for served in lost if served.placed > MAX_MIGRATIONS])
        self._migrations += len(moved)
        self._wait(moved)

    def _fail(self, requests: Iterable[ServedRequest]) -> None:
        for served in requests:
            self._end(served, refused(served.arrival, "failed", served.submodels))

    def _end(self, served: ServedRequest, outcome: Outcome) -> None:
        self._outcomes[served.number] = outcome
        self._done += 1

    def _run(self) -> FleetRun:
        return FleetRun(
            outcomes=tuple([outcome for outcome in self._outcomes if outcome is not None]),
            places=tuple(self._places),
            samples=tuple(self.replicas.samples),
            decisions=tuple(self.replicas.decisions),
            replica_hours=self.replicas.hours,
            cost=self.replicas.cost,
            migrations=self._migrations,
        )
