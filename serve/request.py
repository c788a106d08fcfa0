"""A request as the engine gets it, and the same request while the engine works on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lts_ray.decoding.sampling import GREEDY, Sampling
from serve.budget import NO_BUDGET, Budget
from serve.menu import Menu, Option
from serve.policy import Demand, Row, Running
from serve.response import Progress, Response


@dataclass(frozen=True, kw_only=True)
class Request:
    """pinned: the submodel that the client names, never changed. strict: refuse it rather than miss its budget.

    label: what the log calls it; the engine tells requests apart by ids of its own.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = GREEDY
    seed: int | None = None
    budget: Budget = NO_BUDGET
    pinned: Option | None = None
    strict: bool = False
    label: str = "-"

    @property
    def may_narrow(self) -> bool:
        return bool(self.budget) and self.pinned is None

    def demand(self, *, waited_ms: float) -> Demand:
        return Demand(
            prompt_tokens=len(self.prompt),
            max_tokens=self.max_tokens,
            budget=self.budget,
            pinned=self.pinned,
            waited_ms=waited_ms,
        )


@dataclass(kw_only=True, eq=False)
class Active:
    """option: what it runs at, or, while it waits, what it probably will. last_token: what the next step feeds."""

    id: int
    request: Request
    response: Response
    progress: Progress
    option: Option
    generator: torch.Generator
    last_token: int = -1

    @property
    def remaining(self) -> int:
        return self.request.max_tokens - self.progress.tokens

    @property
    def context(self) -> int:
        return len(self.request.prompt) + self.progress.tokens

    def running(self, now: float) -> Running:
        """Itself between two steps, as the policy sees it."""
        left_ms = None
        if self.progress.first_s is not None:
            due_ms = self.request.budget.last_token_ms(
                first_token_ms=(self.progress.first_s - self.progress.arrived_s) * 1e3,
                max_tokens=self.request.max_tokens,
            )
            left_ms = None if due_ms is None else due_ms - (now - self.progress.arrived_s) * 1e3
        return Running(
            option=self.option,
            context=self.context,
            remaining=self.remaining,
            may_narrow=self.request.may_narrow,
            left_ms=left_ms,
        )

    def row(self, menu: Menu) -> Row:
        """Itself as the load of another request."""
        neurons = self.option.neurons
        floor = min(neurons, menu.narrowest.neurons) if self.request.may_narrow else neurons
        return Row(neurons=neurons, floor=floor, context=self.context, remaining=self.remaining)
