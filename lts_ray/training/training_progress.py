"""The progress bar of a training run, drawn from the records that worker 0 appends to metrics.jsonl."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lts_ray.files import read_json_lines
from lts_ray.training.run_folder import RunFolder

POLL_S = 0.5


@contextmanager
def shown_training(folder: RunFolder, steps: int, *, console: Console | None = None) -> Iterator[None]:
    """While a run goes on, a thread shows one line: steps, time left, tokens (or images) per second and each loss.

    Each new evaluation is printed above it.
    """
    bar = Progress(
        TextColumn("training"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
    )
    task = bar.add_task("training", total=steps, status="starting")
    done, evaluated = threading.Event(), -1

    def show() -> None:
        nonlocal evaluated
        records = read_json_lines(folder.metrics, what="metrics")
        for record in records:
            if "validation_loss" in record and record["step"] > evaluated:
                evaluated = record["step"]
                bar.console.print(f"step {evaluated}: validation {_losses(record['validation_loss'])}")
        newest = next((record for record in reversed(records) if "loss" in record), None)
        if newest is not None:
            speed = next(key for key in newest if key.endswith("_per_s"))
            status = f"{newest[speed]:,.0f} {speed.removesuffix('_per_s')}/s  loss {_losses(newest['loss'])}"
            bar.update(task, completed=newest["step"], status=status)

    def watch() -> None:
        while not done.wait(POLL_S):
            show()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    with bar:
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            show()


def _losses(losses: Mapping[str, float]) -> str:
    """A loss that is the only one goes without its name."""
    return " ".join(f"{name} {value:.3f}" if len(losses) > 1 else f"{value:.3f}" for name, value in losses.items())
