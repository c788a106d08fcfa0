"""What a replica tells each ingress of itself: once what stays, then what changes. Moments are by its clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.capacity import Capacity
from serve.policies.deviation import NO_DEVIATION, Deviation
from serve.policies.menu import Menu, Option


@dataclass(frozen=True, kw_only=True)
class ReplicaCard:
    id: str
    kind: str
    """Of node, as the fleet's file calls it."""
    cost: float
    """Of an hour, in whatever unit the fleet's file has."""
    costs: StepCosts
    """As they were calibrated there."""
    universal: Option
    named: Mapping[str, Option]
    elastic: tuple[Option, ...]
    """Its menu: what budgets choose among there."""
    capacity: Capacity
    n_blocks: int
    """Of its KV cache."""

    @property
    def menu(self) -> Menu:
        return Menu(universal=self.universal, named=self.named, elastic=self.elastic)


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherJob:
    """A request there that another ingress has sent."""

    prompt: int
    """Tokens; so are the next two."""
    max_tokens: int
    produced: int
    arrived_ms: float
    due_ms: float | None
    """When its next bound is due; None without any."""
    pinned: Option | None
    runs: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaReport:
    now_s: float
    """When it was made."""
    slowdown: float = 1.0
    """The corrections of its step costs, as StepCosts has them: its drift."""
    prompt_slowdown: float = 1.0
    overhead_ms: float = 0.0
    deviation: Deviation = NO_DEVIATION
    """How far the time that passes strays from what is predicted."""
    others: tuple[OtherJob, ...] = field(default=())
    draining: bool = False
    """It is to leave: what can go elsewhere should."""
    failure: str | None = None
    """Why it takes no request."""
