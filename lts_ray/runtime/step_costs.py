"""What one step of the engine costs on this node, as a function of the rows in it and their widths.

A step reads each weight once, for however many rows need it. Rows are ordered by width: the neurons between one
width and the next wider one are run for the wider rows only (the staircase). So a step costs

    base(rows) + the sum over the bands of neurons of (neurons of the band) * neuron(rows that run it)
    + head(rows that want logits) + attended * the tokens that all rows look at

with base, neuron and head piecewise linear in the number of rows: flat while reading weights is the price, rising once
arithmetic is. FFN widths enter as their sum over the layers: a neuron costs the same wherever it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from lts_ray.errors import LtsRayError


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a step that share a width. neurons: of the width, over all layers. rows: one for each token.

    attended: tokens that the rows look at, themselves included, in all. logits: rows that want them.
    """

    neurons: int
    rows: int
    attended: int
    logits: int


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """grid: numbers of rows, growing from 1. base, neuron, head: milliseconds at each of them. attended: per token.

    relative_error: the fit's median relative error on what it was fitted to.
    """

    grid: tuple[int, ...]
    base: tuple[float, ...]
    neuron: tuple[float, ...]
    head: tuple[float, ...]
    attended: float
    relative_error: float = 0.0

    def __post_init__(self) -> None:
        if not self.grid or self.grid[0] != 1 or list(self.grid) != sorted(set(self.grid)):
            raise LtsRayError(f"the grid of step costs must grow from 1; got {self.grid}")
        if any(len(column) != len(self.grid) for column in (self.base, self.neuron, self.head)):
            raise LtsRayError(f"step costs need one value for each of the {len(self.grid)} numbers of rows")

    def step_ms(self, groups: Sequence[Group]) -> float:
        """The predicted time of one step of these groups, in any order. 0 for an empty step."""
        if not groups:
            return 0.0
        rows = logits = attended = below = 0
        total = 0.0
        for group in groups:
            rows += group.rows
            logits += group.logits
            attended += group.attended
        left = rows
        for group in sorted(groups, key=lambda each: each.neurons):
            if group.neurons > below:
                total += (group.neurons - below) * self._at(self.neuron, left)
                below = group.neurons
            left -= group.rows
        total += self._at(self.base, rows) + self.attended * attended
        return total + self._at(self.head, logits) if logits else total

    def scaled(self, factor: float) -> StepCosts:
        """The same node, slower by `factor` in everything."""
        return StepCosts(
            grid=self.grid,
            base=tuple(factor * each for each in self.base),
            neuron=tuple(factor * each for each in self.neuron),
            head=tuple(factor * each for each in self.head),
            attended=factor * self.attended,
            relative_error=self.relative_error,
        )

    def _at(self, values: Sequence[float], rows: int) -> float:
        """Between two points of the grid linear; past the last one, as between the last two."""
        if len(values) == 1:
            return values[0] * rows
        right = min(max(bisect_right(self.grid, rows), 1), len(values) - 1)
        low, high = self.grid[right - 1], self.grid[right]
        share = (rows - low) / (high - low)
        return values[right - 1] + share * (values[right] - values[right - 1])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepCosts:
        """Of what `to_json` gave, whether or not it was text in between."""
        columns = {key: tuple(each) if isinstance(each, list) else each for key, each in value.items()}
        return cls(**cast(dict[str, Any], columns))
