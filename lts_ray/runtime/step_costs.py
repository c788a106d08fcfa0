"""What one step of the engine costs on this node, as a function of the rows in it and their widths.

A step reads each weight once, for however many rows need it. Rows are ordered by width: the neurons between one
width and the next wider one are run for the wider rows only (the staircase). So a step costs

    base(rows) + the sum over the bands of neurons of (neurons of the band) * neuron(rows that run it)
    + head(rows that want logits) + attended * the tokens that decoded rows look at
    + prompt_attended * those that the rows of prompts look at, which share what they read

with base, neuron and head piecewise linear in the number of rows: flat while reading weights is the price, rising once
arithmetic is. FFN widths enter as their sum over the layers: a neuron costs the same wherever it is.

That is a quiet node's cost. Serving may be slower by a factor, by another one where prompts are read, and by
what it adds to each step: 1, 1 and 0 unless told otherwise; serve/engine/cost_correction.py learns them from the steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter

from lts_ray.errors import LtsRayError

WIDTH = attrgetter("neurons")


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a step that share a width."""

    neurons: int
    """Of the width, over all layers."""
    rows: int
    """One for each token."""
    attended: int
    """Tokens that the rows look at, themselves included, in all."""
    logits: int
    """Rows that want them."""

    @property
    def decoded(self) -> float:
        """The part of `attended` that decoded rows look at, all rows counting alike."""
        return self.attended * self.logits / self.rows if self.rows else 0.0


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """The parts of the sum above, in milliseconds."""

    grid: tuple[int, ...]
    """Numbers of rows, growing from 1."""
    base: tuple[float, ...]
    """Milliseconds at each point of the grid; so are neuron and head."""
    neuron: tuple[float, ...]
    head: tuple[float, ...]
    attended: float
    """Milliseconds per token that is looked at."""
    prompt_attended: float | None = None
    """The same for rows of prompts; None: as `attended`."""
    relative_error: float = 0.0
    """The fit's median relative error on steps that it was not fitted to."""
    slowdown: float = 1.0
    """Of every step, over the time that the fields above give."""
    prompt_slowdown: float = 1.0
    """Of steps that read prompts, beside it."""
    overhead_ms: float = 0.0
    """On top of every step."""

    def __post_init__(self) -> None:
        grid = self.grid
        if not grid or grid[0] != 1 or any(left >= right for left, right in pairwise(grid)):
            raise LtsRayError(f"the grid of step costs must grow from 1; got {grid}")
        if not len(self.base) == len(self.neuron) == len(self.head) == len(grid):
            raise LtsRayError(f"step costs need one value for each of the {len(grid)} numbers of rows")

    def step_ms(self, groups: Sequence[Group]) -> float:
        """The predicted time of one step of these groups, in any order. 0 for an empty step.

        Rows without logits tell a piece of a prompt from decoding, where every row wants them. What a group looks at
        is divided by its rows.
        """
        reads_prompt = sum(group.rows - group.logits for group in groups) > 0
        return self.served_ms(self.quiet_ms(groups), reads_prompt=reads_prompt) if groups else 0.0

    def served_ms(self, quiet_ms: float, *, reads_prompt: bool) -> float:
        """Of a step that takes `quiet_ms` on a quiet node. reads_prompt: whether it has rows without logits."""
        return self.slowdown * (quiet_ms * self.prompt_slowdown if reads_prompt else quiet_ms) + self.overhead_ms

    def quiet_ms(self, groups: Sequence[Group]) -> float:
        """As `step_ms`, on a quiet node: without the slowdowns and the overhead."""
        if not groups:
            return 0.0
        rows = logits = attended = below = 0
        decoded = 0.0
        for group in groups:
            rows += group.rows
            logits += group.logits
            attended += group.attended
            decoded += group.decoded
        total = self._at(self.base, rows)
        if logits:
            total += self._at(self.head, logits)
        left = rows
        for group in groups if len(groups) == 1 else sorted(groups, key=WIDTH):
            if group.neurons > below:
                total += (group.neurons - below) * self._at(self.neuron, left)
                below = group.neurons
            left -= group.rows
        each_ms = self.attended if self.prompt_attended is None else self.prompt_attended
        return total + self.attended * decoded + each_ms * (attended - decoded)

    def corrected(self, *, slowdown: float, prompt_slowdown: float, overhead_ms: float) -> StepCosts:
        """The same node. Unlike `replace` it checks nothing again, for there is a correction after every step."""
        costs = object.__new__(StepCosts)
        vars(costs).update(vars(self), slowdown=slowdown, prompt_slowdown=prompt_slowdown, overhead_ms=overhead_ms)
        return costs

    def scaled(self, factor: float) -> StepCosts:
        """The same node, slower by `factor` in everything."""
        return replace(self, slowdown=factor * self.slowdown, overhead_ms=factor * self.overhead_ms)

    def _at(self, values: Sequence[float], rows: int) -> float:
        """Between two points of the grid linear; past the last one, as between the last two."""
        if len(values) == 1:
            return values[0] * rows
        right = min(bisect_right(self.grid, rows) or 1, len(values) - 1)
        low, high = self.grid[right - 1], self.grid[right]
        share = (rows - low) / (high - low)
        return values[right - 1] + share * (values[right] - values[right - 1])
