"""What `python -m benchmarks.policies` is asked to compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Literal, cast

from benchmarks.load.budget_classes import BudgetClasses
from benchmarks.load.contestants import DEFAULT
from benchmarks.load.traces import TRACES, trace_named
from lts_ray.errors import LtsRayError

Mode = Literal["simulated", "engine"]
MODES: tuple[Mode, ...] = ("simulated", "engine")
LOADS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Cell:
    """One load under one policy. load: in multiples of the universal model's saturation."""

    mode: Mode
    trace: str
    load: float
    seed: int
    policy: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """seconds: of each load. seeds: how many, from `seed` on. noise: of simulated steps, see serve.simulate.simulate.

    rollouts: replays of a load by which the oracle finds what it does; see serve.simulate.oracle.
    """

    modes: tuple[Mode, ...] = ("engine",)
    traces: tuple[str, ...] = tuple(TRACES)
    loads: tuple[float, ...] = LOADS
    policies: tuple[str, ...] = DEFAULT
    seeds: int = 3
    seed: int = 0
    seconds: float = 30.0
    classes: BudgetClasses = field(default_factory=BudgetClasses)
    noise: float = 0.05
    rollouts: int = 40

    def __post_init__(self) -> None:
        for name in self.traces:
            trace_named(name)
        for name in ("modes", "traces", "loads", "policies"):
            chosen = getattr(self, name)
            if not chosen or len(set(chosen)) != len(chosen):
                raise LtsRayError(f"{name} must be at least one, and each only once; got {', '.join(map(str, chosen))}")
        if unknown := set(self.modes) - set(MODES):
            raise LtsRayError(f"unknown mode {unknown.pop()!r}; known: {', '.join(MODES)}")
        if min(self.loads) <= 0 or self.seconds <= 0 or self.noise < 0 or min(self.seeds, self.rollouts) < 1:
            raise LtsRayError(
                f"loads, seconds, seeds and rollouts must be above 0, noise not below; got loads {self.loads}, "
                f"{self.seconds} s, {self.seeds} seeds, {self.rollouts} rollouts, noise {self.noise}"
            )

    def cells(self) -> Iterator[Cell]:
        """All policies at one trace before the next, so that a slow hour of the machine hits them alike."""
        seeds = range(self.seed, self.seed + self.seeds)
        for mode, seed, load, trace, policy in product(self.modes, seeds, self.loads, self.traces, self.policies):
            yield Cell(mode, trace, load, seed, policy)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Settings:
        """Of what `to_json` gave, whether or not it was text in between."""
        columns = {name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}
        return cls(**cast(dict[str, Any], columns | {"classes": BudgetClasses(**value["classes"])}))
