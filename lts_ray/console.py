"""What a verb prints: rows of results, as a table for a person or as JSON Lines for a program; and its progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from lts_ray.files import json_text, without_infinities


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


@contextmanager
def progress_bars(*, disable: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr, gone at the end. Gives a function to call with what is done, how much of it, and of how much."""
    with Progress(console=Console(stderr=True), transient=True, disable=disable) as bars:
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
