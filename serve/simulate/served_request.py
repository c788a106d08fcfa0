"""A request of a simulated load on its way: where it is, and all that has come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from serve.policies.budget import Timing
from serve.policies.policy import Job
from serve.policies.request import Request, Resumed
from serve.simulate.request_outcome import Outcome
from serve.traffic.arrival import Arrival


@dataclass(slots=True, eq=False)
class ServedRequest:
    number: int
    """Its place among the arrivals."""
    arrival: Arrival
    request: Request
    first_ms: float | None = None
    """When its first token came, after the load's start."""
    submodels: dict[str, int] = field(default_factory=dict)
    """Its tokens, by what made them."""
    placed: int = 0
    """How many replicas have had it."""
    gives_up_ms: float = inf
    """Until when it waits for a replica."""

    @property
    def produced(self) -> int:
        return sum(self.submodels.values())

    @property
    def job(self) -> Job:
        return Job(id=self.number, request=self.request, arrived_ms=self.arrival.at_ms)

    @property
    def resumed(self) -> Resumed | None:
        """What it has got from other replicas than the one where it is, if others have had it."""
        if self.placed <= 1:
            return None
        return Resumed(tokens=(0,) * self.produced, first_s=None if self.first_ms is None else self.first_ms / 1e3)

    def left(self, now_ms: float) -> Request:
        """What is to be done yet, as a request that comes now."""
        return self.request.left(now_ms - self.arrival.at_ms, (0,) * self.produced, moved=self.placed > 0)

    def note(self, submodel: str, tokens: int, first_ms: float) -> None:
        """first_ms: when the first of these tokens came."""
        if self.first_ms is None:
            self.first_ms = first_ms
        self.submodels[submodel] = self.submodels.get(submodel, 0) + tokens

    def outcome(self, last_ms: float) -> Outcome:
        """Of one that has all its tokens. last_ms: when the last one came."""
        arrival, later = self.arrival, self.arrival.output_tokens - 1
        assert self.first_ms is not None
        timing = Timing(
            ttft_ms=self.first_ms - arrival.at_ms,
            tpot_ms=(last_ms - self.first_ms) / later if later else 0.0,
            e2e_ms=last_ms - arrival.at_ms,
        )
        return Outcome(arrival=arrival, status="done", timing=timing, submodels=self.submodels)
