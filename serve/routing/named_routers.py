"""Routers by the name that the command line and the metrics use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.record import read_record, record
from serve.routing.budget_router import BudgetRouter
from serve.routing.router import Router
from serve.routing.simple_routers import LeastOutstanding, PowerOfTwo, PrefixAware, RoundRobin, StaticGrid


@record()
class Unset:
    """For a router that has nothing to set."""


ROUTERS: Mapping[str, type[Any]] = {
    "budget": BudgetRouter,
    "power-of-two": PowerOfTwo,
    "round-robin": RoundRobin,
    "least-outstanding": LeastOutstanding,
    "prefix-aware": PrefixAware,
    "static-grid": StaticGrid,
}
SETTINGS: Mapping[str, type[Any]] = {"prefix-aware": PrefixAware, "static-grid": StaticGrid}


def router_named(name: str, /, **settings: Any) -> Router:
    """Raises LtsRayError for an unknown router, or a setting that it does not have or cannot use."""
    if name not in ROUTERS:
        raise LtsRayError(f"unknown router {name!r}; known: {', '.join(ROUTERS)}")
    known: Any = read_record(SETTINGS.get(name, Unset), settings, what=name)
    router: Router = ROUTERS[name]() if isinstance(known, Unset) else known
    return router
