"""What an ingress knows of one replica: what it has sent there, token by token, and what that says of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lts_ray.runtime.step_costs import StepCosts
from serve.engine.response import Admitted, Ended, ResponseFailed, Token
from serve.fleet.replica_card import OtherJob, ReplicaCard, ReplicaReport
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.menu import Option
from serve.policies.policy import Job, Situation
from serve.policies.request import Request
from serve.routing.replica_view import DistantView, ReplicaView, fits


@dataclass(slots=True, eq=False)
class _Sent:
    """A request that runs or waits there."""

    id: int
    request: Request
    arrived_ms: float
    produced: int
    first_ms: float | None
    shared: int
    """Tokens of its prompt that the replica had already."""
    runs: bool = False
    decodes: bool = False
    option: Option | None = None

    def job(self) -> Job:
        length = len(self.request.prompt) + self.produced
        return Job(
            id=self.id,
            request=self.request,
            arrived_ms=self.arrived_ms,
            cached=length - 1 if self.decodes else self.shared,
            produced=self.produced,
            first_ms=self.first_ms,
            option=self.option,
        )


class ReplicaMirror:
    """Moments are in milliseconds by the ingress' clock."""

    def __init__(self, card: ReplicaCard) -> None:
        self.card, self.report = card, ReplicaReport(now_s=0.0)
        self._sent: dict[int, _Sent] = {}
        self._others: tuple[tuple[Job, bool], ...] = ()
        self._costs = card.costs
        self._menu = card.menu
        self._view: ReplicaView | None = None

    @property
    def costs(self) -> StepCosts:
        """As the replica has corrected them."""
        return self._costs

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the requests that are there."""
        return tuple(self._sent)

    def send(
        self,
        number: int,
        request: Request,
        *,
        arrived_ms: float,
        produced: int = 0,
        first_ms: float | None = None,
        shared: int = 0,
    ) -> None:
        self._view = None
        self._sent[number] = _Sent(number, request, arrived_ms, produced, first_ms, shared)

    def note(self, number: int, event: Token | Admitted | Ended | ResponseFailed) -> None:
        sent = self._sent.get(number)
        if sent is None:
            return
        self._view = None
        match event:
            case Token():
                sent.produced += 1
                sent.decodes = True
                if sent.first_ms is None:
                    sent.first_ms = event.at_s * 1e3
                if sent.option is None or sent.option.name != event.submodel:
                    sent.option = self.card.named.get(event.submodel, self.card.universal)
            case Admitted():
                sent.runs, sent.option = True, self.card.named.get(event.submodel, self.card.universal)
            case _:
                del self._sent[number]

    def remove(self, number: int) -> None:
        self._view = None
        self._sent.pop(number, None)

    def take(self, report: ReplicaReport, offset_s: float) -> None:
        """offset_s: of the ingress' clock before the replica's."""
        self._view, self.report = None, report
        self._costs = self.card.costs.corrected(
            slowdown=report.slowdown, prompt_slowdown=report.prompt_slowdown, overhead_ms=report.overhead_ms
        )
        self._others = tuple(
            (_job_of(other, -2 - place, offset_s * 1e3), other.runs) for place, other in enumerate(report.others)
        )

    @property
    def load(self) -> int:
        """Requests that run and wait there."""
        return len(self._sent) + len(self._others)

    @property
    def has_place(self) -> bool:
        """Whether its queue takes one request more."""
        waiting = sum([not sent.runs for sent in self._sent.values()]) + sum([not runs for _, runs in self._others])
        return waiting < self.card.capacity.max_queue

    def fits(self, request: Request) -> bool:
        """Whether it could run the request if it had nothing else to do."""
        return fits(request, self.card.n_blocks, self.card.named)

    def view(self, now_ms: float) -> ReplicaView:
        """The same one until something has changed there."""
        if self._view is None:
            self._view = DistantView(
                id=self.card.id,
                kind=self.card.kind,
                cost=self.card.cost,
                menu=self._menu,
                load=self.load,
                has_place=self.has_place,
                look=partial(self._looked_at, now_ms),
                n_blocks=self.card.n_blocks,
            )
        return self._view

    def _looked_at(self, now_ms: float) -> tuple[StepCosts, Situation]:
        jobs = [*[(sent.job(), sent.runs) for sent in self._sent.values()], *self._others]
        situation = Situation(
            now_ms=now_ms,
            running=tuple([job for job, runs in jobs if runs]),
            waiting=tuple(sorted([job for job, runs in jobs if not runs], key=_arrival)),
            capacity=self.card.capacity,
            deviation=self.report.deviation,
        )
        return self._costs, situation


def _arrival(job: Job) -> float:
    return job.arrived_ms


def _job_of(other: OtherJob, id: int, offset_ms: float) -> Job:
    """As far as forecasts look at one: how much there is to do, and by when."""
    arrived_ms = other.arrived_ms + offset_ms
    budget = NO_BUDGET if other.due_ms is None else Budget(e2e_ms=other.due_ms - other.arrived_ms)
    request = Request(prompt=(0,) * other.prompt, max_tokens=other.max_tokens, budget=budget, pinned=other.pinned)
    length = other.prompt + other.produced
    return Job(
        id=id,
        request=request,
        arrived_ms=arrived_ms,
        cached=length - 1 if other.produced else 0,
        produced=other.produced,
        first_ms=arrived_ms if other.produced else None,
    )
