"""A table of designs and what was measured of them, read from a CSV file.

A design column is one that a person chose: a list with a value per layer ("8 8 12"), or few different numbers or words.
A measured column varies nearly from row to row, or is named after what is measured.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from lts_ray.errors import LtsRayError
from lts_ray.files import read_text
from lts_ray.pareto import Objectives

Value = float | tuple[float, ...]
MEASURED = re.compile(r"latency|memory|perplexity|ppl|loss|accuracy|energy|power|params|flops|_ms$|_mb$", re.IGNORECASE)
LABEL = re.compile(r"id|index|name|(unnamed.*)?", re.IGNORECASE)
FEW = 100
"""A column with more distinct values than this is a measurement, or a label."""
LIST = re.compile(r"[\s,;]+")


@dataclass(frozen=True, kw_only=True)
class DesignTable:
    columns: tuple[str, ...]
    designs: tuple[tuple[Value, ...], ...]
    """[row][column], all different."""
    objective_names: tuple[str, ...]
    objectives: tuple[Objectives, ...]
    """[row][objective], all minimised."""


def read_designs(path: Path, *, objectives: Sequence[str], columns: Sequence[str] | None = None) -> DesignTable:
    """Read `objectives`, and the design `columns` (None: those that look like one). Of equal designs the first counts.

    Raises LtsRayError for a file that is not there, columns it lacks, and values that are not numbers.
    """
    header, rows = _read(path)
    wanted = [*objectives, *(columns or ())]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise LtsRayError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(header)}")
    if len(objectives) < 2 or len(set(objectives)) < len(objectives):
        raise LtsRayError(f"name two objectives or more, each once; got {', '.join(objectives)}")
    cells = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    chosen = tuple(columns or (name for name in header if name not in objectives and _is_design(name, cells[name])))
    if not chosen or set(chosen) & set(objectives):
        raise LtsRayError(f"{path}: name the columns that describe a design with --columns; got {', '.join(chosen)}")
    parsed = {name: _column(name, cells[name], path) for name in chosen}
    measured = {name: [_measurement(cell, name, path) for cell in cells[name]] for name in objectives}
    designs = list(zip(*(parsed[name] for name in chosen), strict=True))
    vectors = list(zip(*(measured[name] for name in objectives), strict=True))
    first = {design: row for row, design in reversed(list(enumerate(designs)))}
    kept = sorted(first.values())
    return DesignTable(
        columns=chosen,
        designs=tuple(designs[row] for row in kept),
        objective_names=tuple(objectives),
        objectives=tuple(vectors[row] for row in kept),
    )


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    text = read_text(path, what="table")
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)  # spreadsheets write what their language separates lists by
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=separator) if line]
    except csv.Error as error:
        raise LtsRayError(f"table {path} cannot be read as CSV: {error}") from None
    if len(lines) < 3:
        raise LtsRayError(f"table {path} needs a header and at least two rows")
    header, *rows = lines
    uneven = next((number for number, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if uneven is not None:
        raise LtsRayError(f"table {path}: line {uneven} has {len(rows[uneven - 2])} values for {len(header)} columns")
    return header, rows


def _is_design(name: str, cells: Sequence[str]) -> bool:
    if MEASURED.search(name) or LABEL.fullmatch(name.strip()):
        return False
    return any(len(_parts(cell)) > 1 for cell in cells) or 1 < len(set(cells)) <= FEW


def _column(name: str, cells: Sequence[str], path: Path) -> list[Value]:
    """Words count by their alphabetical place: False 0, True 1."""
    words = sorted({part for cell in cells for part in _parts(cell) if _number(part) is None})
    places = {word: float(place) for place, word in enumerate(words)}
    if len(words) > FEW or (words and any(_number(part) is not None for cell in cells for part in _parts(cell))):
        raise LtsRayError(f"table {path}: column {name} holds {words[0]!r}, which is not a number like its others")
    values: list[Value] = []
    for cell in cells:
        numbers = [places[part] if part in places else float(part) for part in _parts(cell)]
        if not numbers:
            raise LtsRayError(f"table {path}: column {name} has an empty cell")
        values.append(numbers[0] if len(numbers) == 1 else tuple(numbers))
    return values


def _parts(cell: str) -> list[str]:
    return [part for part in LIST.split(cell.strip().strip("[]()")) if part]


def _measurement(cell: str, name: str, path: Path) -> float:
    number = _number(cell)
    if number is None:
        raise LtsRayError(f"table {path}: objective {name} holds {cell!r}, which is not a finite number")
    return number


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None
