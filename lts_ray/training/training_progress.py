"""The progress bar of a training run, drawn from the records that worker 0 appends to metrics.jsonl."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lts_ray.console import WIDE, PlainProgress, error_console, first_fitting
from lts_ray.files import read_json_lines
from lts_ray.training.run_folder import RunFolder

POLL_S = 0.5


@contextmanager
def shown_training(folder: RunFolder, steps: int, *, console: Console | None = None) -> Iterator[None]:
    """While a run goes on, a thread shows one line: steps, time left, tokens (or images) per second and each loss.

    Each new evaluation is printed above it. Where no terminal is, plain lines. console: default: standard error.
    """
    console = console or error_console()
    wide = console.width >= WIDE
    columns = (TextColumn("training"), BarColumn(bar_width=24)) if wide else ()
    times = (TimeElapsedColumn(), TimeRemainingColumn()) if wide else (TimeRemainingColumn(compact=True),)
    bar = Progress(
        *columns,
        MofNCompleteColumn(),
        *times,
        TextColumn("{task.fields[status]}"),
        console=console,
        disable=not console.is_terminal,
    )
    plain = PlainProgress(console)
    counts = 2 * len(str(steps)) + 1
    room = console.width - counts - (len("training") + 24 + 20 if wide else 10)
    task = bar.add_task("training", total=steps, status="starting")
    done, evaluated = threading.Event(), -1

    def show() -> None:
        nonlocal evaluated
        records = read_json_lines(folder.metrics, what="metrics")
        for record in records:
            if "validation_loss" in record and record["step"] > evaluated:
                evaluated = record["step"]
                console.print(f"step {evaluated}: validation {_losses(record['validation_loss'])}", highlight=False)
        newest = next((record for record in reversed(records) if "loss" in record), None)
        if newest is not None:
            speed = next(key for key in newest if key.endswith("_per_s"))
            losses, told = newest["loss"], f"{newest[speed]:,.0f} {speed.removesuffix('_per_s')}/s"
            last = f"loss {list(losses.values())[-1]:.3f}"  # of the universal model, where there are several
            status = first_fitting([f"{told}  loss {_losses(losses)}", f"loss {_losses(losses)}", last], room)
            bar.update(task, completed=newest["step"], status=status)
            if not console.is_terminal:
                plain.show("training", f"step {newest['step']:,} of {steps:,}, {told}, loss {_losses(losses)}")

    def watch() -> None:
        while not done.wait(POLL_S):
            show()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    with bar, nullcontext() if console.is_terminal else plain.running():
        if not console.is_terminal:
            plain.show("training", f"of {steps:,} steps, starting")
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
