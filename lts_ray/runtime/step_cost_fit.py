"""What steps cost, from steps that were timed.

A non-negative least squares of the relative error, reweighted so that outliers have little say. Its unknowns are the
columns' values for one row and their slopes between the points of the grid, so that more work is never predicted to
cost less. Where a runtime pads its rows, the columns are stairs: a point of the grid at each size that it pads to, and
one just behind it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from lts_ray.precision import PLANES
from lts_ray.runtime.step_costs import Group, PlaneCosts, StepCosts

GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OUTLYING, REWEIGHTINGS = 0.03, 8
"""An error above the first counts by its size, not by its square: a step may have been slow in all runs. The fit is
reweighted as often as the second says."""


@dataclass(frozen=True, slots=True)
class _Grid:
    points: tuple[int, ...]
    padded: tuple[int, ...]
    """Those that fewer rows are padded to."""

    @classmethod
    def up_to(cls, rows: int, padded: tuple[int, ...]) -> _Grid:
        """padded: growing from 1; none: no rows are padded."""
        points = (*padded, *[point for point in GRID if point > max(padded, default=0)])
        return cls(points[: max(2, bisect_left(points, rows) + 1)], padded)

    def hinges(self, rows: int) -> NDArray[np.float64]:
        """[points]: 1, then how many of the rows lie between each two points; past the last, the last two."""
        rows = next((size for size in self.padded if size >= rows), rows)
        parts = [min(max(rows - low, 0), high - low) for low, high in pairwise(self.points)]
        parts[-1] += max(rows - self.points[-1], 0)
        return np.array([1.0, *parts])

    def curve(self, values: Sequence[float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """A column of StepCosts and its grid, from the values at the points."""
        grid, heights = zip(*self._stairs(values), strict=True)
        return grid, heights

    def _stairs(self, values: Sequence[float]) -> Iterator[tuple[int, float]]:
        yield self.points[0], values[0]
        for (low, high), value in zip(pairwise(self.points), values[1:], strict=True):
            if high in self.padded and low + 1 < high:
                yield low + 1, value
            yield high, value


def fit_step_costs(samples: Sequence[tuple[Sequence[Group], float]], *, padded: tuple[int, ...] = ()) -> StepCosts:
    """samples: the groups of a step, and the milliseconds it took. padded: numbers of rows, growing from 1, that a
    runtime pads fewer rows to."""
    samples = [(groups, took_ms) for groups, took_ms in samples if took_ms > 0]
    if not samples:
        return StepCosts(grid=(1,), base=(0.0,), neuron=(0.0,), head=(0.0,), attended=0.0)
    most = max(sum(group.rows for group in groups) for groups, _ in samples)
    grid = _Grid.up_to(most, padded)
    planes = _planes_of(samples)
    terms = np.array([_terms(groups, grid, planes) for groups, _ in samples])
    relative = terms / np.array([took_ms for _, took_ms in samples])[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)  # columns differ by many orders of magnitude
    relative, weights = relative / scale, np.ones(len(samples))
    for _ in range(REWEIGHTINGS):
        solution, _ = nnls(relative * weights[:, None], weights)
        weights = np.sqrt(np.minimum(1, OUTLYING / np.maximum(np.abs(relative @ solution - 1), 1e-12)))
    values = solution / scale
    seen = terms.max(axis=0) > 0
    attended = [float(values[place] if seen[place] else values[other]) for place, other in ((-2, -1), (-1, -2))]
    found = []
    for place, plane in enumerate(planes):
        size = len(grid.points)
        parts = [slice((3 * place + part) * size, (3 * place + part + 1) * size) for part in range(3)]
        columns = [grid.curve(_column(values[part], seen[part], grid.points)) for part in parts]
        (rows, base), (_, neuron), (_, head) = columns
        found.append(PlaneCosts(plane=plane, base=base, neuron=neuron, head=head))
    first, *beside = found
    return StepCosts(
        grid=rows,
        base=first.base,
        neuron=first.neuron,
        head=first.head,
        attended=attended[0],
        prompt_attended=attended[1],
        plane=first.plane,
        beside=tuple(beside),
        once=float(values[-3]),
    )


def _planes_of(samples: Sequence[tuple[Sequence[Group], float]]) -> list[str]:
    """Those that are read, but for one that is read by the same rows as one before it: they cannot be told apart."""
    readers = {
        plane: tuple([group.planes >> place & 1 for groups, _ in samples for group in groups])
        for place, plane in enumerate(PLANES)
    }
    first = {rows: plane for plane, rows in reversed(readers.items()) if any(rows)}
    return [plane for plane in PLANES if plane in first.values()]


def _terms(groups: Sequence[Group], grid: _Grid, planes: Sequence[str]) -> NDArray[np.float64]:
    """What multiplies the unknowns: of each plane base's first value and slopes, neuron's, head's; then what a step of
    several planes costs once, and the costs of attending."""
    columns = []
    for plane in planes:
        base, neuron, head = np.zeros((3, len(grid.points)))
        ordered = [group for group in groups if group.planes >> PLANES.index(plane) & 1]
        if ordered:
            base = grid.hinges(sum(group.rows for group in ordered))
        if logits := sum(group.logits for group in ordered):
            head = grid.hinges(logits)
        ordered.sort(key=lambda group: group.neurons)
        below = 0
        for place, group in enumerate(ordered):
            neuron += (group.neurons - below) * grid.hinges(sum(wider.rows for wider in ordered[place:]))
            below = group.neurons
        columns += [base, neuron, head]
    decoded = sum(group.decoded for group in groups)
    once = float(len(planes) > 1)
    return np.concatenate([*columns, [once, decoded, sum(group.attended for group in groups) - decoded]])


def _column(solved: NDArray[np.float64], seen: NDArray[np.bool_], grid: Sequence[int]) -> tuple[float, ...]:
    """A column's values from its first one and its slopes. Where no step had so many rows, it goes on as before."""
    slopes = [float(slope) for slope in solved[1:]]
    for place in range(1, len(slopes)):
        if not seen[place + 1]:
            slopes[place] = slopes[place - 1]
    steps = (slope * (high - low) for slope, (low, high) in zip(slopes, pairwise(grid), strict=True))
    return tuple(accumulate(steps, initial=float(solved[0])))
