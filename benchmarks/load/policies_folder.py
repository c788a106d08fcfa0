"""What a comparison of policies keeps on disk, so that a run that was stopped goes on where it was.

setup.json: what was asked for and what it was measured with. cells.jsonl: a line for each cell that is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from benchmarks.common.machine import Machine
from benchmarks.load.contestants import DEFAULT
from benchmarks.load.local_model import LoadCapacity
from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line, read_json, read_json_lines, write_json, write_json_lines
from lts_ray.record import read_record, record, record_json
from lts_ray.runtime.step_costs import StepCosts
from serve.simulate.attainment_score import AttainmentScore
from serve.traffic.budget_classes import BudgetClasses
from serve.traffic.traces import TRACES, trace_named

Mode = Literal["simulated", "engine"]
MODES: tuple[Mode, ...] = ("simulated", "engine")
LOADS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """One load under one policy."""

    mode: Mode
    trace: str
    load: float
    """In multiples of the universal model's saturation."""
    seed: int
    """Of the first load; each further one counts up from it."""
    policy: str


def check_different(name: str, chosen: Sequence[object]) -> None:
    if not chosen or len(set(chosen)) != len(chosen):
        raise LtsRayError(f"{name} must be at least one, and each only once; got {', '.join(map(str, chosen))}")


@record(what="settings")
class PolicySettings:
    modes: tuple[Mode, ...] = ("engine",)
    """What replays the loads: the engine itself, the simulator, or both."""
    traces: tuple[str, ...] = tuple(TRACES)
    """When requests come: names of arrival processes."""
    loads: tuple[Annotated[float, Gt(0)], ...] = LOADS
    """In multiples of the universal model's saturation."""
    policies: tuple[str, ...] = DEFAULT
    """Names of the policies that are compared."""
    seeds: Annotated[int, Ge(1)] = 3
    """How many, from `seed` on."""
    seed: int = 0
    """Of the first load; each further one counts up from it."""
    seconds: Annotated[float, Gt(0)] = 30.0
    """Of each load."""
    classes: BudgetClasses = field(default_factory=BudgetClasses)
    """How tight the budgets are that requests come with."""
    noise: Annotated[float, Ge(0)] = 0.05
    """Of simulated steps' times, the standard deviation of the logarithm."""
    rollouts: Annotated[int, Ge(1)] = 40
    """Replays of a load by which the oracle finds what it does."""

    def __post_init__(self) -> None:
        for name in self.traces:
            trace_named(name)
        for name in ("modes", "traces", "loads", "policies"):
            check_different(name, getattr(self, name))

    def cells(self) -> Iterator[Cell]:
        """All policies at one trace before the next, so that a slow hour of the machine hits them alike."""
        seeds = range(self.seed, self.seed + self.seeds)
        for mode, seed, load, trace, policy in product(self.modes, seeds, self.loads, self.traces, self.policies):
            yield Cell(mode, trace, load, seed, policy)


@record(what="the set-up")
class PolicySetup:
    """What the cells of one comparison have in common."""

    settings: PolicySettings
    """What was asked to be compared."""
    model: str
    """Its fingerprint."""
    capacity: LoadCapacity
    """What the engine takes at once."""
    threads: int
    """Of one step."""
    costs: StepCosts
    """Of this node's steps."""
    rate: float
    """Requests per second at load 1, by the costs."""
    losses: Mapping[str, float]
    """By submodel, in nats per token."""
    machine: Machine
    """Where the step costs were measured."""
    slowdown: float | None = None
    """The engine's time over the predicted one, for a backlog: load 1 is rate / slowdown there. None: not run yet."""

    def mismatch(self, other: PolicySetup) -> str | None:
        """Why cells of the two cannot stand in one table; None if they can. More cells are no reason."""
        for mine, theirs, names in (
            (self, other, ("model", "losses", "capacity", "threads")),
            (self.settings, other.settings, ("seconds", "classes", "noise", "rollouts")),
        ):
            for name in names:
                if getattr(mine, name) != getattr(theirs, name):
                    return f"{name} {getattr(theirs, name)}, not {getattr(mine, name)}"
        return None

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **record_json(self)}


def read_setup(path: Path) -> PolicySetup:
    """Of a setup.json, or of the results of a whole comparison, which begin with it."""
    names = {column.name for column in fields(PolicySetup)}
    kept = {name: value for name, value in read_json(path, what="the bench's set-up").items() if name in names}
    return read_record(PolicySetup, kept, what=str(path))


@dataclass(frozen=True, kw_only=True)
class CellResult:
    cell: Cell
    score: AttainmentScore
    step_error: float | None = None
    """The median relative error of the steps' predicted times; None where steps are simulated."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.cell), "score": asdict(self.score), "step_error": self.step_error}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> CellResult:
        cell = Cell(**{column.name: line[column.name] for column in fields(Cell)})
        return cls(cell=cell, score=AttainmentScore(**line["score"]), step_error=line["step_error"])


@dataclass(frozen=True)
class CellsFolder:
    path: Path

    @property
    def setup_file(self) -> Path:
        return self.path / "setup.json"

    @property
    def cells_file(self) -> Path:
        return self.path / "cells.jsonl"

    @property
    def is_begun(self) -> bool:
        """Whether there is a set-up."""
        if self.path.exists() and not self.path.is_dir():
            raise LtsRayError(f"{self.path} is not a folder; use another --output")
        return self.setup_file.exists()

    def read_cells(self) -> dict[Cell, CellResult]:
        """What is done. Mends a last line that a kill cut off, so that the next one does not continue it."""
        lines = read_json_lines(self.cells_file, what="the bench's cells")
        if self.cells_file.exists():
            write_json_lines(self.cells_file, lines)
        results = map(CellResult.from_json, lines)
        return {result.cell: result for result in results}

    def add(self, result: CellResult) -> None:
        append_json_line(self.cells_file, result.to_json())


class PoliciesFolder(CellsFolder):
    def read_setup(self) -> PolicySetup | None:
        """None where no comparison has begun."""
        return read_setup(self.setup_file) if self.is_begun else None

    def write_setup(self, setup: PolicySetup) -> None:
        write_json(self.setup_file, setup.to_json())
