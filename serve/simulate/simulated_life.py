"""One replica of a simulated fleet, from the moment it is asked for until it is gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import inf

import numpy as np

from lts_ray.runtime.step_costs import StepCosts
from serve.autoscaling.fleet_state import ReplicaLoad
from serve.autoscaling.recent_load import RecentLoad
from serve.autoscaling.sustained_rate import RecentRequest, sustained_rate
from serve.policies.budget import Timing
from serve.policies.policy import Job, Policy, Situation
from serve.policies.request import Request
from serve.routing.replica_view import DistantView, ReplicaView
from serve.simulate.served_request import ServedRequest
from serve.simulate.simulate import SimulatedEngine
from serve.simulate.simulated_kind import SimulatedKind

ATTAINMENT = 0.99
"""Of budgets, that a replica is to keep which learns no reserve of time for one."""


class SimulatedLife:
    """Moments are in milliseconds after the load's start."""

    def __init__(
        self,
        kind: SimulatedKind,
        number: int,
        policy: Policy,
        *,
        asked_ms: float,
        longest: int,
        rng: np.random.Generator,
    ) -> None:
        """number: of the kind's, ever. longest: the most tokens of a request. rng: what the noise is drawn from."""
        self.id, self.kind, self.asked_ms = f"{kind.name}-{number}", kind, asked_ms
        self.up = self.drains = self.gone = False
        self.engine = SimulatedEngine(kind.node, policy, longest=longest, rng=rng)
        self.awaited_ms = inf
        """The last end of steps that was put on the agenda."""
        self.factors: list[float] = []
        """By which it alone is slow now."""
        self._served: dict[int, ServedRequest] = {}
        self._coming: dict[int, ServedRequest] = {}
        self._losses = {name: option.likely_loss or 0.0 for name, option in kind.node.menu.named.items()}
        self._seen: tuple[int, tuple[StepCosts, Situation]] | None = None
        self._recent = RecentLoad(asked_ms / 1e3)

    @property
    def has_work(self) -> bool:
        return bool(self._served)

    @property
    def has_place(self) -> bool:
        """Whether its queue takes one request more, as far as an ingress knows."""
        if len(self._served) < self.kind.node.capacity.max_queue:
            return True
        waiting = max(self.engine.not_begun, self.counts()[1])
        return waiting + len(self._coming) < self.kind.node.capacity.max_queue

    def fits(self, request: Request) -> bool:
        """Whether it could run the request if it had nothing else to do."""
        return self.engine.scheduler.fits(request)

    @property
    def ends_ms(self) -> float:
        """When something of it is to be looked at next."""
        return inf if self.gone else self.engine.ends_ms

    def serve(self, now_ms: float) -> None:
        """From now on."""
        self.up, self.engine.now_ms, self._recent = True, now_ms, RecentLoad(now_ms / 1e3)

    def expect(self, served: ServedRequest, now_ms: float) -> None:
        """It is on its way here: `take` it when it has come."""
        served.placed += 1
        self._served[served.number] = self._coming[served.number] = served
        self._recent.came(now_ms / 1e3)
        self._seen = None

    def take(self, served: ServedRequest, now_ms: float) -> bool:
        """False where the queue is full after all."""
        self.catch_up(now_ms)
        self.engine.cut(now_ms)
        del self._coming[served.number]
        self._seen, arrived_ms = None, served.arrival.at_ms
        if self.engine.submit(served.number, served.request, arrived_ms=arrived_ms, resumed=served.resumed):
            return True
        del self._served[served.number]
        served.placed -= 1
        return False

    def begin(self, now_ms: float) -> None:
        """Start steps, if there is something to do and none runs."""
        if not self.gone:
            self.engine.begin(now_ms)

    def catch_up(self, now_ms: float) -> list[ServedRequest]:
        """Steps that have ended by now are taken. Returns the requests that have ended with them."""
        taken = self.engine.take(now_ms)
        if taken is None:
            return []
        count, first_ms = len(taken.ends_ms), taken.ends_ms[0] + self.kind.node.delivery_ms
        loss, made = 0.0, taken.made
        for part in made:
            name = part.option.name
            self._served[part.id].note(name, count, first_ms)
            loss += self._losses[name]
        self._recent.made([end_ms / 1e3 for end_ms in taken.ends_ms], len(made), loss)
        return [self._served.pop(id) for id in taken.ended]

    def ended(self, served: ServedRequest, timing: Timing | None) -> None:
        if timing is not None:
            self._recent.ended(self.engine.now_ms / 1e3, served.request, timing, tokens=served.request.max_tokens)

    def end(self, now_ms: float) -> list[ServedRequest]:
        """It is gone. Returns the requests that it had."""
        self.catch_up(now_ms)
        self.gone, lost, self._served, self._coming = True, list(self._served.values()), {}, {}
        return lost

    def slow(self, factor: float, now_ms: float) -> None:
        """Steps that begin from now on take so many times as long as they would."""
        self.catch_up(now_ms)
        self.engine.slow(factor, now_ms)

    def view(self, now_ms: float) -> ReplicaView:
        """As an ingress has it."""
        kind = self.kind
        return DistantView(
            id=self.id,
            kind=kind.name,
            cost=kind.cost_per_hour,
            menu=kind.node.menu,
            load=self.load,
            has_place=self.has_place,
            look=partial(self._looked_at, now_ms),
            n_blocks=kind.node.n_blocks,
        )

    def _looked_at(self, now_ms: float) -> tuple[StepCosts, Situation]:
        """Made anew once its jobs have changed."""
        self.catch_up(now_ms)
        changes = self.engine.changes
        if self._seen is None or self._seen[0] != changes:
            engine = self.engine
            seen = _seen(engine.scheduler.situation(now_ms, engine.deviation), self._coming.values())
            self._seen = changes, (engine.costs, seen)
        return self._seen[1]

    @property
    def load(self) -> int:
        """Requests that run and wait."""
        return len(self._served)

    def counts(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        return self.engine.scheduler.counts

    def report(self, now_ms: float) -> ReplicaLoad:
        self.catch_up(now_ms)
        running, waiting = self.counts()
        node = self.kind.node
        return self._recent.load(
            now_ms / 1e3, running=running, waiting=waiting, bears=self._bears, worst_loss=node.worst_loss
        )

    def _bears(self, recent: Sequence[RecentRequest], cv2: float) -> float:
        node, engine = self.kind.node, self.engine
        return sustained_rate(
            recent,
            menu=node.menu,
            costs=engine.costs,
            deviation=engine.deviation,
            capacity=node.capacity,
            worst_loss=node.worst_loss,
            attainment=node.attainment or ATTAINMENT,
            cv2=cv2,
        )


def _seen(situation: Situation, coming: Iterable[ServedRequest]) -> Situation:
    """As an ingress knows it, by what has come back: neither how far prompts are, nor whether a first step runs."""
    jobs = sorted([*situation.jobs, *(served.job for served in coming)], key=_number)
    return replace(
        situation,
        running=tuple([_seen_job(job) for job in jobs if job.option is not None]),
        waiting=tuple([_seen_job(job) for job in jobs if job.option is None]),
    )


def _seen_job(job: Job) -> Job:
    cached = len(job.request.prompt) + job.produced - 1 if job.produced and job.option is not None else 0
    return job if job.cached == cached else replace(job, cached=cached)


def _number(job: Job) -> int:
    return job.id
