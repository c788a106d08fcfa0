"""What `python -m benchmarks.budgets` keeps on disk: a run that was stopped goes on with the rounds that it has.

setup.json: what was asked for, and what budgets and loads are multiples of. turns.jsonl: a line for each turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt
from pydantic import TypeAdapter

from benchmarks.common.machine import Machine
from benchmarks.load.served_outcome import ServedOutcome
from lts_ray.errors import LtsRayError
from lts_ray.files import append_json_line, read_json, read_json_lines, write_json, write_json_lines
from lts_ray.quickstart.ask import Needs
from lts_ray.record import read_record, record, record_json
from lts_ray.runtime.step_costs import StepCosts

SCHEMA = 1
TurnKey = tuple[int, str, str]
"""A turn's round, task and variant."""


@record(what="settings", strict=False)
class BudgetsSettings:
    loads: tuple[Annotated[float, Gt(0)], ...] = (0.5, 0.9, 1.3)
    """Of Poisson arrivals, in multiples of the universal model's saturation."""
    seconds: Annotated[float, Gt(0)] = 5.0
    """Of each load."""
    busy: Annotated[int, Ge(0)] = 0
    """Processes beside the endpoint that compute all the time."""
    seed: int = 0
    """Of the first round's loads; each further round counts up from it."""


@record(what="the set-up")
class BudgetsSetup:
    settings: BudgetsSettings
    """What all turns have in common."""
    model: str
    """Its fingerprint."""
    costs: StepCosts
    """Of an endpoint's steps, as it had learned them when the warm-up was over."""
    rate: float
    """Requests per second at load 1, by these costs."""
    needs: Needs
    """What the quickstart's budgets are made of."""
    machine: Machine
    """Where it was measured."""


@dataclass(frozen=True)
class BudgetsTurn:
    """One load, sent to one variant."""

    round: int
    task: str
    variant: str
    outcomes: tuple[ServedOutcome, ...]
    """In the order of the arrivals."""
    step_ratios: tuple[float, ...]
    """What the endpoint's steps took over the set-up's costs."""

    @property
    def key(self) -> TurnKey:
        return self.round, self.task, self.variant


TURNS = "turns.jsonl"
TURN = TypeAdapter(BudgetsTurn)


@dataclass(frozen=True)
class BudgetsFolder:
    path: Path

    def read_setup(self, settings: BudgetsSettings, model: str) -> BudgetsSetup | None:
        """None where nothing is measured yet. Raises LtsRayError for a folder of other settings, or another model."""
        if not (file := self.path / "setup.json").exists():
            return None
        found = {name: value for name, value in read_json(file, what="the set-up").items() if name != "schema"}
        setup = read_record(BudgetsSetup, found, what=str(file))
        if (setup.settings, setup.model) != (settings, model):
            raise LtsRayError(f"{self.path} holds rounds of other settings or another model; use another --output")
        return setup

    def write_setup(self, setup: BudgetsSetup) -> None:
        write_json(self.path / "setup.json", {"schema": SCHEMA, **record_json(setup)})

    def read_turns(self) -> dict[TurnKey, BudgetsTurn]:
        """What is done. Mends a last line that a kill cut off, so that the next one does not continue it."""
        lines = read_json_lines(self.path / TURNS, what="the turns")
        if lines:
            write_json_lines(self.path / TURNS, lines)
        turns: list[BudgetsTurn] = [TURN.validate_python(line) for line in lines]
        return {turn.key: turn for turn in turns}

    def add(self, turn: BudgetsTurn) -> None:
        append_json_line(self.path / TURNS, TURN.dump_python(turn, mode="json"))
