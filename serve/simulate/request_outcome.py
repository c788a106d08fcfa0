"""What became of one request of a load, run by the engine, a server or a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serve.policies.budget import Budget, Kind, Timing
from serve.traffic.arrival import Arrival

Status = Literal["done", "rejected", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    arrival: Arrival
    status: Status
    """Rejected: the queue was full, or no submodel could keep a strict budget; failed: anything else."""
    timing: Timing | None
    """From the moment at which the request was due; None unless done."""
    submodels: Mapping[str, int]
    """Tokens by the submodel that made them."""
    predicted: Timing | None = None
    """What the scheduler expected when it came, where that is known."""

    @property
    def budget(self) -> Budget:
        return self.arrival.budget

    @property
    def met(self) -> bool:
        """Whether all of its bounds held; without any, whether it was answered."""
        return self.timing is not None and self.budget.holds(self.timing)

    def met_kind(self, kind: Kind) -> bool | None:
        """Whether this one bound held; None where the request has none."""
        limit = self.budget.items().get(kind)
        if limit is None:
            return None
        return self.timing is not None and bool(getattr(self.timing, f"{kind}_ms") <= limit)

    @property
    def end_ms(self) -> float:
        """When it was over, after the load's start."""
        return self.arrival.at_ms + (0.0 if self.timing is None else self.timing.e2e_ms)


def refused(arrival: Arrival, status: Literal["rejected", "failed"], submodels: Mapping[str, int]) -> Outcome:
    return Outcome(arrival=arrival, status=status, timing=None, submodels=dict(submodels))
