"""How far the time that passes strays from the time that was predicted, by how far ahead the prediction looks.

A single step strays far: one stall of a busy machine takes many times a short step. A sum of many strays less. So the
reserve that a budget needs, as a share of the time left, grows as a response comes to its end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import log

import numpy as np
from numpy.typing import NDArray

from serve.policies.budget import KINDS, Kind

Array = NDArray[np.float64]
Lines = tuple[list[float], Sequence[Sequence[float]], Sequence[Sequence[float]]]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Time that passes, over the time predicted for it. Between two horizons linear in the horizon's logarithm.

    A row for each of KINDS: a first token waits for steps that read prompts, further ones for steps that need not.
    """

    horizons_ms: tuple[float, ...]
    """Predicted milliseconds, growing."""
    likely: tuple[tuple[float, ...], ...]
    """[kinds, horizons]: the median."""
    safe: tuple[tuple[float, ...], ...]
    """[kinds, horizons]: what is kept as often as the wanted attainment says; above `likely`."""

    def at(self, kind: Kind, ahead_ms: Array) -> tuple[Array, Array]:
        """`likely` and `safe` that far ahead. ahead_ms: predicted milliseconds, of any shape."""
        horizons, likely, safe = self._lines
        ahead, row = np.log(np.maximum(ahead_ms, 1e-9)), KINDS.index(kind)
        return np.interp(ahead, horizons, likely[row]), np.interp(ahead, horizons, safe[row])

    def then(self, kind: Kind, ahead_ms: float) -> tuple[float, float]:
        """As `at`, of one moment."""
        return _between(*self._points, KINDS.index(kind), ahead_ms)

    def least(self, kind: Kind, within_ms: float) -> tuple[float, float]:
        """`likely` and `safe`: no less are they at any horizon up to `within_ms`."""
        return _between(*self._lowest, KINDS.index(kind), within_ms)

    @cached_property
    def _points(self) -> Lines:
        return [log(horizon_ms) for horizon_ms in self.horizons_ms], self.likely, self.safe

    @cached_property
    def _lowest(self) -> Lines:
        likely, safe = [[list(accumulate(row, min)) for row in rows] for rows in (self.likely, self.safe)]
        return self._points[0], likely, safe

    @cached_property
    def _lines(self) -> tuple[Array, Array, Array]:
        return np.log(np.array(self.horizons_ms)), np.array(self.likely), np.array(self.safe)


def _between(
    horizons: list[float], likely: Sequence[Sequence[float]], safe: Sequence[Sequence[float]], row: int, ahead_ms: float
) -> tuple[float, float]:
    ahead = log(max(ahead_ms, 1e-9))
    place = bisect_right(horizons, ahead)
    if not 0 < place < len(horizons):
        place = min(place, len(horizons) - 1)
        return likely[row][place], safe[row][place]
    share = (ahead - horizons[place - 1]) / (horizons[place] - horizons[place - 1])
    low, high = likely[row][place - 1 : place + 1]
    safe_low, safe_high = safe[row][place - 1 : place + 1]
    return low + share * (high - low), safe_low + share * (safe_high - safe_low)


NO_DEVIATION = Deviation(horizons_ms=(1.0,), likely=((1.0,),) * len(KINDS), safe=((1.15,),) * len(KINDS))
"""Before any step has been timed: steps take what they cost, and nearly so."""
