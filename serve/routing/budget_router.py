"""The best quality that keeps the budget, over all replicas; among equals the cheapest, then what is warm, then idle.

First roughly, for all replicas and submodels at once; then the replicas that lead are asked by the very forecast that
their own policy uses, until one holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from serve.policies.admission import judge, smallest_feasible_budget_ms
from serve.policies.deadline import DeadlinePolicy
from serve.policies.policy import Job
from serve.policies.request import Request
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Route

ASKED = 3
"""So many replicas are asked at most; the first one nearly always holds."""
NEW = -1
"""The id of the request as a job: no replica's."""


@dataclass(frozen=True, kw_only=True)
class BudgetRouter:
    name: str = "budget"

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        routes = [_asked(view, request, now_ms) for view in _ranked(request, replicas, shared)]
        kept = [route for route in routes if route.met]
        return min(kept, key=lambda route: inf if route.loss is None else route.loss) if kept else routes[0]


def smallest_feasible(request: Request, replicas: Sequence[ReplicaView], *, now_ms: float) -> dict[str, float]:
    """For each kind of bound that the request has, in milliseconds: one replica would keep all of these together."""
    job = Job(id=NEW, request=request, arrived_ms=now_ms)
    asked = request.budget.items()

    def excess(feasible: Mapping[str, float]) -> float:
        return max(feasible[kind] / limit for kind, limit in asked.items())

    found = [
        smallest_feasible_budget_ms(
            replace(view.situation, now_ms=now_ms), job, view.menu, view.costs, DeadlinePolicy()
        )
        for view in _ranked(request, replicas, {})[:ASKED]
    ]
    return min(found, key=excess)


def _ranked(request: Request, replicas: Sequence[ReplicaView], shared: Mapping[str, int]) -> list[ReplicaView]:
    """The most promising first."""
    most = max(len(view.menu.elastic) for view in replicas)
    token_ms = np.full((len(replicas), most), inf)
    prompt_ms = np.full((len(replicas), most), inf)
    losses = np.full((len(replicas), most), inf)
    for row, view in enumerate(replicas):
        outlook, count = view.outlook, len(view.menu.elastic)
        token_ms[row, :count], prompt_ms[row, :count] = outlook.token_ms, outlook.prompt_ms
        losses[row, :count] = [option.shortfall for option in view.menu.elastic]
    wait_ms = np.array([view.outlook.wait_ms for view in replicas])
    cached = np.array([shared.get(view.id, 0) for view in replicas])
    ttft_ms = wait_ms[:, None] + prompt_ms * (len(request.prompt) - cached)[:, None]
    e2e_ms = ttft_ms + token_ms * (request.max_tokens - 1)
    most_ms = np.array([view.outlook.most_ms for view in replicas])
    loads = [view.load for view in replicas]
    if not request.budget or request.pinned is not None:  # the widest, where it ends first and takes nothing away
        harm = token_ms[:, 0] > most_ms
        return [replicas[row] for row in np.lexsort(np.array([loads, e2e_ms[:, 0], harm]))]
    safe = np.array([view.situation.deviation.at("e2e", e2e_ms[row])[1] for row, view in enumerate(replicas)])
    budget = request.budget
    keeps = token_ms <= most_ms[:, None]
    for limit, needed in ((budget.ttft_ms, ttft_ms), (budget.tpot_ms, token_ms), (budget.e2e_ms, e2e_ms)):
        if limit is not None:
            keeps &= needed * safe <= limit
    quality = np.where(keeps, losses, inf).min(axis=1)
    costs = [view.cost for view in replicas]
    fastest = np.where(np.isfinite(quality), 0.0, e2e_ms.min(axis=1))  # only where nothing keeps it
    return [replicas[row] for row in np.lexsort(np.array([loads, -cached, costs, fastest, quality]))]


def _asked(view: ReplicaView, request: Request, now_ms: float) -> Route:
    job = Job(id=NEW, request=request, arrived_ms=now_ms)
    choice = judge(replace(view.situation, now_ms=now_ms), job, view.menu, view.costs, DeadlinePolicy())
    option = choice.option
    return Route(replica=view.id, submodel=option.name, predicted=choice.predicted, loss=option.loss, met=choice.met)
