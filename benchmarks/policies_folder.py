"""What a bench of policies keeps on disk, so that a run that was stopped goes on where it was.

setup.json: what was asked for and what it was measured with. cells.jsonl: a line for each cell that is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.policies_settings import Cell, Settings
from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line, read_json, read_json_lines, write_json, write_json_lines
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.capacity import Capacity
from serve.simulate.attainment_score import AttainmentScore

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What cells of one bench have in common.

    model: its fingerprint. costs: of this node's steps. losses: by submodel. rate: requests per second at load 1, by
    the costs. slowdown: the real engine's time over the predicted one, for a backlog: load 1 is rate / slowdown there.
    None where the engine has not run yet.
    """

    settings: Settings
    model: str
    capacity: Capacity
    threads: int
    costs: StepCosts
    rate: float
    losses: Mapping[str, float]
    machine: Mapping[str, Any]
    slowdown: float | None = None

    def mismatch(self, other: Setup) -> str | None:
        """Why cells of the two cannot stand in one table; None if they can. More cells are no reason."""
        pairs = [
            (name, getattr(self, name), getattr(other, name)) for name in ("model", "losses", "capacity", "threads")
        ]
        pairs += [
            (name, getattr(self.settings, name), getattr(other.settings, name))
            for name in ("seconds", "classes", "noise", "rollouts")
        ]
        return next((f"{name} {theirs}, not {ours}" for name, ours, theirs in pairs if ours != theirs), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "settings": self.settings.to_json(),
            "model": self.model,
            "capacity": self.capacity.to_json(),
            "threads": self.threads,
            "costs": self.costs.to_json(),
            "rate": self.rate,
            "losses": dict(self.losses),
            "machine": dict(self.machine),
            "slowdown": self.slowdown,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Setup:
        return cls(
            settings=Settings.from_json(value["settings"]),
            model=value["model"],
            capacity=Capacity(**value["capacity"]),
            threads=value["threads"],
            costs=StepCosts.from_json(value["costs"]),
            rate=value["rate"],
            losses=value["losses"],
            machine=value["machine"],
            slowdown=value["slowdown"],
        )


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """step_error: the median relative error of the steps' predicted times; None where steps are simulated."""

    cell: Cell
    score: AttainmentScore
    step_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {**self.cell.to_json(), "score": self.score.to_json(), "step_error": self.step_error}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CellResult:
        cell = Cell(**{name: value[name] for name in Cell.__dataclass_fields__})
        return cls(cell=cell, score=AttainmentScore.from_json(value["score"]), step_error=value["step_error"])


@dataclass(frozen=True)
class BenchFolder:
    path: Path

    @property
    def setup_file(self) -> Path:
        return self.path / "setup.json"

    @property
    def cells_file(self) -> Path:
        return self.path / "cells.jsonl"

    def read_setup(self) -> Setup | None:
        """None where no bench has begun."""
        if self.path.exists() and not self.path.is_dir():
            raise LtsRayError(f"{self.path} is not a folder; use another --output")
        return read_setup(self.setup_file) if self.setup_file.exists() else None

    def write_setup(self, setup: Setup) -> None:
        write_json(self.setup_file, setup.to_json())

    def read_cells(self) -> dict[Cell, CellResult]:
        """What is done. Mends a last line that a kill cut off, so that the next one does not continue it."""
        lines = read_json_lines(self.cells_file, what="the bench's cells")
        if self.cells_file.exists():
            write_json_lines(self.cells_file, lines)
        results = [CellResult.from_json(line) for line in lines]
        return {each.cell: each for each in results}

    def add(self, result: CellResult) -> None:
        append_json_line(self.cells_file, result.to_json())


def read_setup(path: Path) -> Setup:
    try:
        return Setup.from_json(read_json(path, what="the bench's set-up"))
    except (KeyError, TypeError) as error:
        raise LtsRayError(f"{path} is not a bench's set-up, or of another version ({error!r})") from None
