"""What a policy sees between two steps, and what it answers. Plain data: no clock, no torch, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import Budget
from serve.policies.menu import Menu, Option


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A request between two steps. Times are in milliseconds on the engine's clock.

    max_tokens: the most it will produce; it may stop earlier, which nobody knows. produced: tokens so far.
    cached: its places that the KV cache holds; a preempted job may have produced tokens and hold none.
    first_ms: when its first token came. option: what it ran at last, or None if it has not run.
    pinned: the submodel that the request names, never changed.
    """

    id: int
    arrived_ms: float
    budget: Budget
    prompt_tokens: int
    max_tokens: int
    cached: int = 0
    produced: int = 0
    first_ms: float | None = None
    option: Option | None = None
    pinned: Option | None = None

    @property
    def bounded(self) -> bool:
        """Whether it has a budget: asked for often, so without a look at what the budget's fields are."""
        budget = self.budget
        return budget.ttft_ms is not None or budget.tpot_ms is not None or budget.e2e_ms is not None

    @property
    def elastic(self) -> bool:
        """Whether its width may be chosen: a request without a budget, or one that names its submodel, is served so."""
        return self.pinned is None and self.bounded

    @property
    def pending(self) -> int:
        """Tokens to run before its next one comes: 1 in the middle of a response."""
        return self.prompt_tokens + self.produced - self.cached

    @property
    def decodes(self) -> bool:
        """Whether its next step feeds the token that it produced last, and nothing else."""
        return self.pending == 1 and self.produced > 0

    @property
    def remaining(self) -> int:
        """The most tokens it will still produce."""
        return self.max_tokens - self.produced


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """running: hold a place in the batch, in the order in which they got it. waiting: in the order of arrival.

    slots: the most that run at once. chunk_tokens: the most tokens of one step, decoded ones included.
    """

    now_ms: float
    running: tuple[Job, ...]
    waiting: tuple[Job, ...]
    slots: int
    chunk_tokens: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """options: the width for each job, running or waiting, should it take part in this step.

    order: ids of all waiting jobs, in the order in which they get free places and the step's tokens for prompts.
    held: running jobs that sit this step out, for the sake of others. Never all that could run.
    """

    options: Mapping[int, Option]
    order: tuple[int, ...]
    held: frozenset[int] = frozenset()


class Policy(Protocol):
    """Decides anew before every step, from what it is given alone.

    name: as on the command line and in metrics.
    """

    @property
    def name(self) -> str: ...

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan: ...
