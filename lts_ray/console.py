"""Rows of results: a table where a person reads, JSON Lines where a program does."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str | None = None) -> None:
    """Print rows that share their keys. JSON keeps full precision; the table rounds to what can be read."""
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for key in rows[0] if rows else ():
        is_number = all(isinstance(row[key], int | float) for row in rows)
        table.add_column(key.replace("_", " "), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ",".join(str(each) for each in value)
    return "" if value is None else str(value)
