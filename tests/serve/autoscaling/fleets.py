"""Made-up states of fleets, for the tests of autoscaling."""

from __future__ import annotations

from typing import Any

from serve.autoscaling.fleet_state import FleetState, KindState, ReplicaLoad


def kind(name: str = "large", *, up: int = 1, **other: Any) -> KindState:
    """up: replicas that serve. other: fields of a KindState, and those of each replica's load."""
    own = {key: other.pop(key) for key in list(other) if key in KindState.__dataclass_fields__}
    given: dict[str, Any] = {
        "min_replicas": 0,
        "max_replicas": 50,
        "cost_per_hour": 1.0,
        "start_s": 30.0,
        "target": up,
        "replicas": {f"{name}-{number}": ReplicaLoad(**({"window_s": 60.0} | other)) for number in range(up)},
    }
    return KindState(name=name, **(given | own))


def fleet(now_s: float, *kinds: KindState) -> FleetState:
    return FleetState(now_s=now_s, kinds=kinds)
