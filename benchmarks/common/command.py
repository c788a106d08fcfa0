"""How a benchmark runs as a command: `python -m benchmarks.NAME`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import typer

from benchmarks.common.turns import Progress
from lts_ray import console
from lts_ray.ending import ending_in_one_line
from lts_ray.interrupt import interruptible
from lts_ray.runtime.kernel_library import warn_of_missing_kernels

Threads = Annotated[int, typer.Option(min=1, help="Torch threads.")]
Rounds = Annotated[int, typer.Option(min=2, help="Rounds in which steps are timed, in turns.")]
TrainingCorpus = Annotated[str, typer.Option("--corpus", help="What to train on.")]
ALL_CORES = os.cpu_count() or 1
StageProgress = Callable[[str, int, int], None]
"""Told of a stage by its name, how much of it is done, and of how much."""


def run_benchmark(command: Callable[..., None]) -> None:
    """Run a function with typer's options. A problem the user can mend is one line on stderr and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(interruptible(command))
    if "--help" not in sys.argv:
        warn_of_missing_kernels()
    with ending_in_one_line(command.__name__):
        app()


@contextmanager
def shown_progress(task: str) -> Iterator[Progress]:
    """A bar on stderr; call what it gives with how many are done, and of how many."""
    with console.progress_bars() as tell:
        yield partial(tell, task)


def names_of(text: str) -> list[str]:
    """What an option lists, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
