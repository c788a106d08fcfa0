"""How far the time that passes strays from the time that was predicted, by how far ahead the prediction looks.

A single step strays far: one stall of a busy machine takes many times a short step. A sum of many strays less. So the
reserve that a budget needs, as a share of the time left, grows as a response comes to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Time that passes, over the time predicted for it. Between two horizons linear in the horizon's logarithm."""

    horizons_ms: tuple[float, ...]
    """Predicted milliseconds, growing."""
    likely: tuple[float, ...]
    """The median, at each horizon."""
    safe: tuple[float, ...]
    """What is kept as often as the wanted attainment says, at each horizon; above `likely`."""

    def at(self, ahead_ms: Array) -> tuple[Array, Array]:
        """`likely` and `safe` that far ahead. ahead_ms: predicted milliseconds, of any shape."""
        ahead = np.log(np.maximum(ahead_ms, 1e-9))
        horizons, likely, safe = self._lines
        return np.interp(ahead, horizons, likely), np.interp(ahead, horizons, safe)

    @cached_property
    def _lines(self) -> tuple[Array, Array, Array]:
        return np.log(np.array(self.horizons_ms)), np.array(self.likely), np.array(self.safe)


NO_DEVIATION = Deviation(horizons_ms=(1.0,), likely=(1.0,), safe=(1.15,))
"""Before any step has been timed: steps take what they cost, and nearly so."""
