"""What a policy sees between two steps, and what it answers. Plain data: no clock, no torch, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.capacity import Capacity
from serve.policies.deviation import NO_DEVIATION, Deviation
from serve.policies.menu import Menu, Option
from serve.policies.request import Request


@dataclass(kw_only=True, slots=True)
class Job:
    """A request between two steps. Times are in milliseconds on the engine's clock. Not to be changed; see Segment."""

    id: int
    request: Request
    arrived_ms: float
    cached: int = 0
    """Its places that the KV cache holds; a preempted job may have produced tokens and hold none."""
    produced: int = 0
    """Tokens so far."""
    first_ms: float | None = None
    """When its first token came."""
    option: Option | None = None
    """What it ran at last, or None if it has not run."""

    @property
    def bounded(self) -> bool:
        return self.request.bounded

    @property
    def elastic(self) -> bool:
        return self.request.elastic

    @property
    def pending(self) -> int:
        """Tokens to run before its next one comes: 1 in the middle of a response."""
        return len(self.request.prompt) + self.produced - self.cached

    @property
    def decodes(self) -> bool:
        """Whether its next step feeds the token that it produced last, and nothing else."""
        return self.produced > 0 and self.pending == 1

    @property
    def remaining(self) -> int:
        """The most tokens it will still produce."""
        return self.request.max_tokens - self.produced

    @property
    def due_ms(self) -> float:
        """When its next bound is due, on the clock: the first token, then the last one; infinity without either."""
        budget = self.request.budget
        if self.first_ms is None:
            bounds = [bound for bound in (budget.ttft_ms, budget.e2e_ms) if bound is not None]
            return self.arrived_ms + min(bounds, default=inf)
        first_token_ms = self.first_ms - self.arrived_ms
        due = budget.last_token_ms(first_token_ms=first_token_ms, max_tokens=self.request.max_tokens)
        return inf if due is None else self.arrived_ms + due


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    now_ms: float
    running: tuple[Job, ...]
    """Those that hold a place in the batch, in the order in which they got it."""
    waiting: tuple[Job, ...]
    """In the order of arrival."""
    capacity: Capacity
    deviation: Deviation = NO_DEVIATION
    """How far from what `costs` say the time that passes has been of late."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        return (*self.running, *self.waiting)


@dataclass(frozen=True, kw_only=True)
class Plan:
    options: Mapping[int, Option]
    """The width for each job, running or waiting, should it take part in this step."""
    order: tuple[int, ...]
    """Ids of all waiting jobs, in the order in which they get free places and the step's tokens for prompts."""
    held: frozenset[int] = frozenset()
    """Running jobs that sit this step out, for the sake of others. Never all that could run."""
    until_ms: float = -inf
    """Before it, the policy would say the same again: while no request comes or goes and none reads its prompt."""


class Policy(Protocol):
    """Decides anew before every step, from what it is given alone."""

    @property
    def name(self) -> str:
        """As on the command line and in metrics."""
        ...

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan: ...
