"""What one step of the engine costs on this node, as a function of the rows in it and their widths.

A step reads each weight once, for however many rows need it. Rows are ordered by width: the neurons between one
width and the next wider one are run for the wider rows only (the staircase). So a step costs

    base(rows) + the sum over the bands of neurons of (neurons of the band) * neuron(rows that run it)
    + head(rows that want logits) + attended * the tokens that decoded rows look at
    + prompt_attended * those that the rows of prompts look at, which share what they read

with base, neuron and head piecewise linear in the number of rows: flat while reading weights is the price, rising once
arithmetic is. FFN widths enter as their sum over the layers: a neuron costs the same wherever it is.

Where weights are kept in several planes (see lts_ray/precision.py), each has its own base, neuron and head, of the rows
that read it: rows in 4 bits read the upper plane, those in 8 bits both. A step costs the sum over the planes.

That is a quiet node's cost. Serving may be slower by a factor, by another one where prompts are read, and by
what it adds to each step: 1, 1 and 0 unless told otherwise; serve/engine/cost_correction.py learns them from the steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from operator import attrgetter

from lts_ray.errors import LtsRayError
from lts_ray.precision import PLANES, STORED_PLANE

WIDTH = attrgetter("neurons")
Curve = tuple[float, ...]
PlaneCurves = tuple[int, Curve, Curve, Curve]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a step that share a width and a precision."""

    neurons: int
    """Of the width, over all layers."""
    rows: int
    """One for each token."""
    attended: int
    """Tokens that the rows look at, themselves included, in all."""
    logits: int
    """Rows that want them."""
    planes: int = STORED_PLANE
    """That the rows read, as precision.READS has them."""

    @property
    def decoded(self) -> float:
        """The part of `attended` that decoded rows look at, all rows counting alike."""
        return self.attended * self.logits / self.rows if self.rows else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaneCosts:
    """Of one of PLANES: milliseconds at each point of the grid."""

    plane: str
    base: tuple[float, ...]
    neuron: tuple[float, ...]
    head: tuple[float, ...]


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
    plane: str = PLANES[0]
    """Which base, neuron and head are of."""
    beside: tuple[PlaneCosts, ...] = ()
    """The other planes."""
    once: float = 0.0
    """Of a step, however many planes it reads: without others, base has it."""

    def __post_init__(self) -> None:
        grid = self.grid
        if not grid or grid[0] != 1 or any(left >= right for left, right in pairwise(grid)):
            raise LtsRayError(f"the grid of step costs must grow from 1; got {grid}")
        if any(len(curve) != len(grid) for _, *curves in self.curves for curve in curves):
            raise LtsRayError(f"step costs need one value for each of the {len(grid)} numbers of rows")
        names = [self.plane, *(costs.plane for costs in self.beside)]
        if len(set(names)) < len(names) or not set(names) <= set(PLANES):
            raise LtsRayError(f"step costs are of planes among {', '.join(PLANES)}, each once; got {', '.join(names)}")

    @cached_property
    def curves(self) -> tuple[PlaneCurves, ...]:
        """Of each plane its bit, base, neuron and head."""
        planes = [PlaneCosts(plane=self.plane, base=self.base, neuron=self.neuron, head=self.head), *self.beside]
        return tuple([(_bit(costs.plane), costs.base, costs.neuron, costs.head) for costs in planes])

    @cached_property
    def planes(self) -> int:
        """Those that these costs know, as Group.planes."""
        return sum(bit for bit, *_ in self.curves)

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
        attended, decoded, total = 0, 0.0, self.once
        for group in groups:
            attended += group.attended
            if group.rows:
                decoded += group.attended * group.logits / group.rows  # as group.decoded, in a step's hot path
        ordered = groups if len(groups) == 1 else sorted(groups, key=WIDTH)
        for curves in self.curves:
            readers = ordered if not self.beside else [group for group in ordered if group.planes & curves[0]]
            if readers:
                total += self._plane_ms(curves, readers)
        each_ms = self.attended if self.prompt_attended is None else self.prompt_attended
        return total + self.attended * decoded + each_ms * (attended - decoded)

    def _plane_ms(self, curves: PlaneCurves, groups: Sequence[Group]) -> float:
        """Of a plane that these groups read, the widest last."""
        _, base, neuron, head = curves
        left = logits = below = 0
        for group in groups:
            left += group.rows
            logits += group.logits
        total = self._at(base, left)
        if logits:
            total += self._at(head, logits)
        for group in groups:
            if group.neurons > below:
                total += (group.neurons - below) * self._at(neuron, left)
                below = group.neurons
            left -= group.rows
        return total

    def corrected(self, *, slowdown: float, prompt_slowdown: float, overhead_ms: float) -> StepCosts:
        """The same node. Unlike `replace` it checks nothing again, for there is a correction after every step."""
        costs = object.__new__(StepCosts)
        vars(costs).update(vars(self), slowdown=slowdown, prompt_slowdown=prompt_slowdown, overhead_ms=overhead_ms)
        return costs

    def of_planes(self, planes: int) -> StepCosts:
        """The same node to rows that read these planes and no others, as if they were one."""
        base, neuron, head = _as_one(self.curves, self.once, planes)
        costs = object.__new__(StepCosts)
        vars(costs).update(vars(self), base=base, neuron=neuron, head=head, beside=(), once=0.0)
        vars(costs).update(curves=((planes, base, neuron, head),), planes=planes)
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


@lru_cache(maxsize=256)
def _as_one(curves: tuple[PlaneCurves, ...], once: float, planes: int) -> tuple[Curve, Curve, Curve]:
    read = [columns for bit, *columns in curves if bit & planes]
    base, neuron, head = [tuple(map(sum, zip(*column, strict=True))) for column in zip(*read, strict=True)]
    return tuple([value + once for value in base]), neuron, head


def _bit(plane: str) -> int:
    return 1 << PLANES.index(plane) if plane in PLANES else 0
