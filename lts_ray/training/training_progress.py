"""The progress bar of a training run, drawn from the records that worker 0 appends to metrics.jsonl."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lts_ray.files import read_json_lines
from lts_ray.training.run_folder import RunFolder

POLL_S = 1.0


class TrainingProgress:
    """One line: steps, time left, tokens (or images) per second and each loss."""

    def __init__(self, steps: int, *, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
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
            speed = next(key for key in newest if key.endswith("_per_s"))
            status = f"{newest[speed]:,.0f} {speed.removesuffix('_per_s')}/s  loss {_losses(newest['loss'])}"
            self._progress.update(self._task, completed=newest["step"], status=status)


@contextmanager
def shown_training(folder: RunFolder, steps: int, *, console: Console | None = None) -> Iterator[None]:
    """While a run goes on in this thread, another one shows its progress."""
    done = threading.Event()
    with TrainingProgress(steps, console=console) as progress:

        def watch() -> None:
            while not done.wait(POLL_S):
                progress.show(read_json_lines(folder.metrics, what="metrics"))

        thread = threading.Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            progress.show(read_json_lines(folder.metrics, what="metrics"))


def _losses(losses: Mapping[str, float]) -> str:
    """A loss that is the only one goes without its name."""
    return " ".join(f"{name} {value:.3f}" if len(losses) > 1 else f"{value:.3f}" for name, value in losses.items())
