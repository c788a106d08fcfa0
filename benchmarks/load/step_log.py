"""How well the steps of a load were predicted: an engine's observer that takes the same memory for hours of steps."""

from __future__ import annotations

from serve.engine.observer import Observer, StepRecord

BINS, PER_UNIT = 2001, 1000
"""Relative errors to a tenth of a percent, up to 200 %; the last bin has all beyond."""


class StepLog(Observer):
    def __init__(self) -> None:
        self._counts = [0] * BINS

    def stepped(self, record: StepRecord) -> None:
        if (error := record.relative_error) is not None:
            self._counts[min(BINS - 1, int(PER_UNIT * error))] += 1

    @property
    def steps(self) -> int:
        return sum(self._counts)

    @property
    def median_error(self) -> float | None:
        """Of the predicted step times, as shares of the actual ones; the middle of its bin. None before any step."""
        below = 0
        for place, count in enumerate(self._counts):
            below += count
            if 2 * below >= self.steps > 0:
                return (place + 0.5) / PER_UNIT
        return None
