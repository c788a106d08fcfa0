"""A kind of node in a simulation."""

from __future__ import annotations

from dataclasses import dataclass

from serve.simulate.simulate import SimulatedReplica


@dataclass(frozen=True, kw_only=True)
class SimulatedKind:
    name: str
    cost_per_hour: float
    """Of one replica, from the moment it is asked for."""
    node: SimulatedReplica
    """Each of its replicas."""
    replicas: int
    """That serve when the load begins."""
    min_replicas: int
    max_replicas: int
    start_s: float = 0.0
    """From the moment a replica is asked for until it serves: its node, its process, the model, its calibration."""

    @property
    def ids(self) -> list[str]:
        """Of the replicas that there are at the beginning; later ones go on counting."""
        return [f"{self.name}-{number}" for number in range(self.replicas)]
