"""How a benchmark runs as a command: `python -m benchmarks.NAME`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from benchmarks.common.turns import Progress
from lts_ray.errors import LtsRayError


def run_command(command: Callable[..., None]) -> None:
    """Run a function with typer's options. A problem the user can mend is one line on stderr and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except LtsRayError as error:
        print(f"{command.__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def shown_progress(task: str) -> Iterator[Progress]:
    """A bar on stderr; call what it gives with how many are done, and of how many."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        number = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total)


def names_of(text: str) -> list[str]:
    """What an option lists, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
