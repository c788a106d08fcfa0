"""The progress bar of a training run, drawn from the records that worker 0 appends to metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingProgress:
    """One line: steps, time left, tokens per second and each loss."""

    def __init__(self, steps: int) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self._task = self._progress.add_task("training", total=steps, status="starting")
        self._evaluated = -1

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Bring the line up to the newest record; print each new evaluation above it."""
        for record in records:
            if "validation_loss" in record and record["step"] > self._evaluated:
                self._evaluated = record["step"]
                self._progress.console.print(f"step {record['step']}: validation {_losses(record['validation_loss'])}")
        steps = [record for record in records if "loss" in record]
        if steps:
            newest = steps[-1]
            status = f"{newest['tokens_per_s']:,.0f} tokens/s  loss {_losses(newest['loss'])}"
            self._progress.update(self._task, completed=newest["step"], status=status)


def _losses(losses: Mapping[str, float]) -> str:
    """A loss that is the only one goes without its name."""
    return " ".join(f"{name} {value:.3f}" if len(losses) > 1 else f"{value:.3f}" for name, value in losses.items())
