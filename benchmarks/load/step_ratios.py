"""What an engine's steps took over what was predicted for them, one after the other: a simulator's noise."""

from __future__ import annotations

from serve.engine.observer import Observer, StepRecord


class StepRatios(Observer):
    def __init__(self) -> None:
        self._ratios: list[float] = []

    def stepped(self, record: StepRecord) -> None:
        if record.predicted_ms > 0:
            self._ratios.append(record.actual_ms / record.predicted_ms)

    def take(self) -> list[float]:
        """Those since the last call."""
        taken, self._ratios = self._ratios, []
        return taken
