"""What others route by, for comparison: none of them looks at budgets ahead, or at quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from lts_ray.record import record
from serve.policies.budget import Budget
from serve.policies.request import Request
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Route


@dataclass(kw_only=True)
class RoundRobin:
    name: str = "round-robin"
    turn: int = 0

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        self.turn += 1
        return Route(replica=replicas[(self.turn - 1) % len(replicas)].id)


@dataclass(frozen=True, kw_only=True)
class LeastOutstanding:
    name: str = "least-outstanding"

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        return Route(replica=min(replicas, key=lambda view: view.load).id)


@dataclass(frozen=True, kw_only=True)
class PowerOfTwo:
    """The less loaded of two drawn at random, as Ray Serve does."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    name: str = "power-of-two"

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        drawn = self.rng.choice(len(replicas), size=min(2, len(replicas)), replace=False)
        return Route(replica=min((replicas[place] for place in drawn), key=lambda view: view.load).id)


@record(what="prefix-aware")
class PrefixAware:
    """Where most of the prompt is known already, among those that have not much more to do than the least loaded."""

    name: ClassVar[str] = "prefix-aware"
    spread: Annotated[int, Field(ge=0)] = 4
    """By so many requests more at most."""

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        least = min(view.load for view in replicas)
        level = [view for view in replicas if view.load <= least + self.spread]
        return Route(replica=min(level, key=lambda view: (-shared.get(view.id, 0), view.load)).id)


@record(what="static-grid")
class StaticGrid:
    """A kind of node for each class of budgets; within the kind the least loaded."""

    name: ClassVar[str] = "static-grid"
    kinds: Annotated[Sequence[tuple[Annotated[float, Field(gt=0, allow_inf_nan=True)], str]], Field(min_length=1)]
    """Up to so many milliseconds a token, the kind; growing. Above the last, and without a budget, the last."""

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        per_token_ms = _per_token_ms(request.budget, request.max_tokens)
        kind = next((kind for most_ms, kind in self.kinds if per_token_ms <= most_ms), self.kinds[-1][1])
        fitting = [view for view in replicas if view.kind == kind] or replicas
        return Route(replica=min(fitting, key=lambda view: view.load).id)


def _per_token_ms(budget: Budget, tokens: int) -> float:
    bounds = [budget.tpot_ms, budget.ttft_ms, None if budget.e2e_ms is None else budget.e2e_ms / tokens]
    return min((bound for bound in bounds if bound is not None), default=float("inf"))
