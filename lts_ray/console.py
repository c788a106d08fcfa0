"""What a verb prints: rows of results, as a table for a person or as JSON Lines for a program; and its progress."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from lts_ray.files import json_text, without_infinities

EVERY_S = 10.0
"""Between two lines on long work, where no terminal is."""
WIDE = 110
"""Columns of a terminal that has room for a bar beside a line's words."""


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str | None = None) -> None:
    """Print rows that share their keys. JSON keeps full precision, and has null for NaN; the table rounds."""
    if as_json:
        for row in rows:
            print(json_text(without_infinities(row)))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for key in rows[0] if rows else ():
        is_number = all(isinstance(row[key], int | float) for row in rows)
        table.add_column(key.replace("_", " "), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell_text(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)


class PlainProgress:
    """Progress where no terminal is, such as in a file: a line for each stage, and the newest state now and then."""

    def __init__(self, console: Console, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic):
        self._console, self._every_s, self._clock = console, every_s, clock
        self._began: dict[str, float] = {}
        self._stage = self._state = ""
        self._said_at = clock()
        self._lock = threading.Lock()

    def show(self, stage: str, state: str) -> None:
        with self._lock:
            is_new, self._stage, self._state = stage not in self._began, stage, state
            self._began.setdefault(stage, self._clock())
            if is_new:
                self._say()

    def remind(self) -> None:
        """Say the newest state, where nothing was said for long enough."""
        with self._lock:
            if self._stage and self._clock() - self._said_at >= self._every_s:
                self._say()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Reminds while the block runs; the last state is said at its end."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(self._every_s / 10):
                self.remind()

        thread = threading.Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _say(self) -> None:
        self._said_at = self._clock()
        seconds = round(self._said_at - self._began[self._stage])
        taken = f", {seconds // 60}:{seconds % 60:02}" if seconds else ""
        self._console.print(f"{self._stage}: {self._state}{taken}", highlight=False, markup=False, soft_wrap=True)


def error_console() -> Console:
    """Standard error as it is now: who borrows it for a while takes no lines from what began before."""
    return Console(file=sys.stderr)


def first_fitting(texts: Sequence[str], room: int) -> str:
    """The first of `texts`, the fullest first, that has at most so many characters; nothing where none has."""
    return next((text for text in texts if len(text) <= room), "")


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """On stderr: bars, gone at the end, or plain lines where it is no terminal.

    Gives a function to call with what is done, how much of it, and of how much.
    """
    console = error_console()
    if not console.is_terminal:
        plain = PlainProgress(console)
        with plain.running():
            yield lambda what, done, total: plain.show(what, f"{done:,} of {total:,}")
        return
    with Progress(console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def cell_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
