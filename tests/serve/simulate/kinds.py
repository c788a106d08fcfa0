"""Kinds of node for simulated fleets."""

from __future__ import annotations

from serve.simulate.simulate import SimulatedReplica
from serve.simulate.simulated_kind import SimulatedKind


def kind_of(
    name: str,
    node: SimulatedReplica,
    *,
    replicas: int = 1,
    bounds: tuple[int, int] = (0, 1000),
    cost: float = 1.0,
    start_s: float = 0.0,
) -> SimulatedKind:
    return SimulatedKind(
        name=name,
        cost_per_hour=cost,
        node=node,
        replicas=replicas,
        min_replicas=bounds[0],
        max_replicas=bounds[1],
        start_s=start_s,
    )
