"""What `python -m benchmarks.fleet` keeps on disk: its set-up, and a line for each load under each router."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen

from benchmarks.common.command import names_of
from benchmarks.common.machine import Machine
from benchmarks.load.local_model import LoadCapacity
from benchmarks.load.policies_folder import Cell, CellsFolder, Mode, check_different
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json
from lts_ray.record import Text, Whole, read_record, record, record_json
from lts_ray.runtime.step_costs import StepCosts
from serve.traffic.budget_classes import BudgetClasses

SCHEMA = 1
ORDER = 12
"""The stream of random numbers of who comes after whom; see serve.traffic.load for others."""


@record(what="kind", strict=False)
class FleetKind:
    name: Text
    """Of the kind of node."""
    replicas: Whole = 1
    """Nodes of the kind."""
    speed: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of a core."""

    @property
    def ids(self) -> list[str]:
        return [f"{self.name}-{number}" for number in range(self.replicas)]


def kinds_given(text: str) -> list[dict[str, str]]:
    """Of `fast:1:0.8,slow:2:0.4`, what FleetSettings reads as kinds: name, replicas, speed. Raises LtsRayError."""
    parts, names = [each.split(":") for each in names_of(text)], ("name", "replicas", "speed")
    if wrong := [part for part in parts if len(part) != len(names)]:
        raise LtsRayError(f"a kind is name:replicas:speed, such as slow:2:0.4; got {':'.join(wrong[0])!r}")
    return [dict(zip(names, part, strict=True)) for part in parts]


@record(what="settings", strict=False)
class FleetSettings:
    mode: Mode
    """What replays the loads: engines in processes of their own, or the simulator."""
    kinds: Annotated[tuple[FleetKind, ...], MinLen(1)]
    """Of node, and how many of each."""
    traces: tuple[str, ...]
    """When requests come: names of arrival processes, or of a recorded trace."""
    loads: tuple[Annotated[float, Gt(0)], ...]
    """In multiples of what the universal model sustains on all replicas together."""
    routers: tuple[str, ...]
    """Names of the routers that are compared."""
    rounds: Whole = 3
    """Loads of each kind."""
    seed: int = 0
    """Of the first round's loads; each further one counts up from it."""
    seconds: Annotated[float, Gt(0)] = 20.0
    """Of each load."""
    classes: BudgetClasses = field(default_factory=BudgetClasses)
    """How tight budgets are, for the fastest kind."""
    noise: Annotated[float, Ge(0)] = 0.1
    """Of simulated steps' times, the standard deviation of the logarithm."""

    replays: Whole = 60
    """Of a load, by which the oracle finds where each request goes."""

    def __post_init__(self) -> None:
        for name in ("traces", "loads", "routers"):
            check_different(name, getattr(self, name))
        check_different("kinds", [kind.name for kind in self.kinds])

    def cells(self) -> Iterator[Cell]:
        """In each round all loads in random order, and at each the routers in random order."""
        loads = [(trace, load) for trace in self.traces for load in self.loads]
        for seed in range(self.seed, self.seed + self.rounds):
            rng = np.random.default_rng([seed, ORDER])
            for place in rng.permutation(len(loads)):
                trace, load = loads[place]
                for router in rng.permutation(self.routers):
                    yield Cell(self.mode, trace, load, seed, str(router))


@record(what="the set-up")
class FleetSetup:
    """What the cells of one folder have in common."""

    settings: FleetSettings
    """What was asked to be compared."""
    model: str
    """Its fingerprint."""
    capacity: LoadCapacity
    """What a replica takes at once."""
    costs: Mapping[str, StepCosts]
    """Of steps, by kind."""
    rates: Mapping[str, float]
    """Requests per second at load 1, by trace."""
    losses: Mapping[str, float]
    """By submodel, in nats per token."""
    machine: Machine
    """Where the step costs were measured."""

    @property
    def fastest(self) -> StepCosts:
        return self.costs[max(self.settings.kinds, key=lambda kind: kind.speed).name]


class FleetFolder(CellsFolder):
    def read_setup(self, settings: FleetSettings, model: str, capacity: LoadCapacity) -> FleetSetup | None:
        """None where nothing is measured yet. Raises LtsRayError where its cells cannot stand beside these."""
        if not self.is_begun:
            return None
        found = {
            name: value for name, value in read_json(self.setup_file, what="the set-up").items() if name != "schema"
        }
        setup = read_record(FleetSetup, found, what=str(self.setup_file))
        pairs = [("model", setup.model, model), ("capacity", setup.capacity, capacity)]
        names = ("mode", "kinds", "seconds", "classes", "noise", "replays", "seed")
        pairs += [(name, getattr(setup.settings, name), getattr(settings, name)) for name in names]
        for name, theirs, ours in pairs:
            if theirs != ours:
                raise LtsRayError(f"{self.path} holds a bench with other {name}; use another --output")
        return setup

    def write_setup(self, setup: FleetSetup) -> None:
        write_json(self.setup_file, {"schema": SCHEMA, **record_json(setup)})
