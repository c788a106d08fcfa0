"""What a client wants: one record, made once, which the scheduler and the policies hold as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan
from struct import pack

from lts_ray.decoding.sampling import GREEDY, Sampling
from serve.policies.budget import NO_BUDGET, Budget, Kind, Timing
from serve.policies.delivery import NO_DELIVERY, Delivery
from serve.policies.menu import Option


@dataclass(frozen=True, kw_only=True)
class Request:
    prompt: tuple[int, ...]
    max_tokens: int
    """The most that it gets; it may end earlier, which cannot be known ahead."""
    sampling: Sampling = GREEDY
    seed: int | None = None
    budget: Budget = NO_BUDGET
    """What the engine is to keep."""
    asked: Budget | None = None
    """What the client asks for, delivery included; None: `budget`."""
    delivery: Delivery = NO_DELIVERY
    """What is likely to pass after the engine's tokens, which counts for `asked`."""
    pinned: Option | None = None
    """The submodel that the client names, never changed."""
    priority: int = 0
    """Of requests that cannot all be in time the lowest number goes first."""
    strict: bool = False
    """Refuse it rather than miss its budget."""
    ignore_eos: bool = False
    """Go on to max_tokens whatever the model says."""
    top_logprobs: int | None = None
    """How many of the most likely tokens come with each; 0: the token's own log probability only; None: neither."""
    whole: bool = False
    """Its client wants all tokens together: they may come at the end."""
    label: str = "-"
    """What the log calls it; the engine tells requests apart by ids of its own."""

    @cached_property
    def bounded(self) -> bool:
        """Whether it has a budget."""
        return bool(self.budget)

    @cached_property
    def elastic(self) -> bool:
        """Whether its width may be chosen: a request without a budget, or one that names its submodel, is served so."""
        return self.pinned is None and self.bounded

    @cached_property
    def terms(self) -> bytes:
        """As decision.c reads what never changes."""
        budget = self.budget
        bounds = [nan if bound is None else bound for bound in (budget.ttft_ms, budget.tpot_ms, budget.e2e_ms)]
        pinned = -1 if self.pinned is None else self.pinned.shape
        return pack("7d", len(self.prompt), self.max_tokens, *bounds, pinned, self.priority)

    @property
    def wanted(self) -> Budget:
        return self.budget if self.asked is None else self.asked

    def left(self, passed_ms: float, tokens: Sequence[int], *, moved: bool) -> Request:
        """What is to be done yet, as a request that comes now. passed_ms: since it came. tokens: that it has got.

        moved: whether a replica has had it.
        """
        if not moved and passed_ms < 1:
            return self
        budget, done = self.budget, len(tokens)
        return replace(
            self,
            prompt=(*self.prompt, *tokens),
            max_tokens=max(1, self.max_tokens - done),  # all may have come, but for the word that it has ended
            budget=Budget(
                ttft_ms=None if done or budget.ttft_ms is None else max(0.0, budget.ttft_ms - passed_ms),
                tpot_ms=budget.tpot_ms,
                e2e_ms=None if budget.e2e_ms is None else max(0.0, budget.e2e_ms - passed_ms),
            ),
        )

    def kept(self, timing: Timing) -> dict[Kind, bool]:
        """Of each bound that the client asks for, whether it is kept. timing: of the engine's tokens."""
        delivered = self.delivery.on(timing)
        return {kind: getattr(delivered, f"{kind}_ms") <= limit for kind, limit in self.wanted.items().items()}


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What a request has got from an engine that is lost to it: another one goes on from there."""

    tokens: tuple[int, ...] = ()
    """They are run as its prompt is, and count as its response's: for max_tokens, penalties and draws alike."""
    first_s: float | None = None
    """When the first of them came, by the clock of the engine that goes on."""
