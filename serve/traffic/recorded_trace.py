"""A service's recorded requests as a load: their times and lengths, both scaled to what a node here can take."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from lts_ray.errors import LtsRayError
from lts_ray.files import json_value, read_text
from lts_ray.record import worded
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses, Need
from serve.traffic.load import LENGTHS, TIMES, load_of
from serve.traffic.traces import Times

FITTING = 99
"""Percent of the requests that fit the context once scaled; longer ones are cut."""
LEAST = 2
Tokens = Annotated[int, Field(ge=0, le=10**9)]


@dataclass(frozen=True, kw_only=True)
class AzureRow:
    timestamp: datetime
    """Those of 2023 have seven digits of a second and no zone, those of 2024 a zone, and sometimes no digits."""
    contexttokens: Tokens
    generatedtokens: Tokens

    @property
    def columns(self) -> tuple[float, int, int]:
        """Milliseconds, tokens of the prompt and of the response."""
        at = self.timestamp if self.timestamp.tzinfo else self.timestamp.replace(tzinfo=UTC)
        return 1e3 * at.timestamp(), self.contexttokens, self.generatedtokens


@dataclass(frozen=True, kw_only=True)
class MooncakeRow:
    """Prompts are made up: what they share, which `hash_ids` say, is left out."""

    timestamp: Annotated[float, Field(ge=0, le=1e15)]
    """Milliseconds."""
    input_length: Tokens
    output_length: Tokens

    @property
    def columns(self) -> tuple[float, int, int]:
        return self.timestamp, self.input_length, self.output_length


@dataclass(frozen=True)
class RecordedTrace:
    name: str
    """The file's, without its ending."""
    times: Times
    """[N], milliseconds from the first request, growing."""
    lengths: NDArray[np.int64]
    """[N, 2]: prompt and response."""

    @property
    def rate(self) -> float:
        """Requests per second, as recorded."""
        return 1e3 * len(self.times) / float(self.times[-1])

    def scaled(self, context_length: int) -> NDArray[np.int64]:
        """The lengths times one factor, by which nearly all fit the context."""
        factor = context_length / max(1.0, float(np.percentile(self.lengths.sum(axis=1), FITTING)))
        tokens = np.rint(self.lengths * min(1.0, factor)).astype(np.int64)
        prompt = np.clip(tokens[:, 0], 1, context_length * 3 // 4)
        return np.stack([prompt, np.clip(tokens[:, 1], 2, context_length - prompt)], axis=1)

    def sample(self, count: int, *, context_length: int, seed: int = 0) -> NDArray[np.int64]:
        """Lengths of requests drawn at random."""
        return np.random.default_rng([seed, LENGTHS]).choice(self.scaled(context_length), count)

    def load(
        self, *, rate: float, seconds: float, seed: int, need: Need, context_length: int, classes: BudgetClasses
    ) -> tuple[Arrival, ...]:
        """A part of the record that begins anywhere, so stretched that `rate` is the mean over all parts."""
        whole_ms = float(self.times[-1])
        part_ms = whole_ms * rate * seconds / len(self.times)
        if part_ms > whole_ms * (1 + 1e-9):
            raise LtsRayError(f"{self.name} has {len(self.times)} requests, fewer than {seconds:g} s of {rate:.1f}/s")
        begin_ms = np.random.default_rng([seed, TIMES]).uniform(0, max(0.0, whole_ms - part_ms))
        rows = slice(*np.searchsorted(self.times, [begin_ms, begin_ms + part_ms]))
        if part_ms >= whole_ms * (1 - 1e-9):
            begin_ms, rows = 0.0, slice(None)
        times = (self.times[rows] - begin_ms) * (1e3 * seconds / part_ms)
        return load_of(times, self.scaled(context_length)[rows], seed=seed, need=need, classes=classes)


def read_recorded(path: Path) -> RecordedTrace:
    """Of Azure's CSV or of Mooncake's JSON Lines, as its first character says. Raises LtsRayError for another file."""
    what = f"trace {path}"
    text = read_text(path, what="trace")
    rows: list[tuple[float, int, int]] = []
    is_json = text.lstrip().startswith("{")
    kind: type[AzureRow | MooncakeRow] = MooncakeRow if is_json else AzureRow
    adapter: TypeAdapter[AzureRow | MooncakeRow] = TypeAdapter(kind)
    for number, line in (_json_lines if is_json else _csv_lines)(text, what):
        try:
            row = adapter.validate_json(line, strict=True) if is_json else adapter.validate_python(line)
        except ValidationError as error:
            raise LtsRayError(worded(error, kind, f"{what}, line {number}")) from None
        if rows and row.columns[0] < rows[-1][0]:
            raise LtsRayError(f"{what}, line {number}: the request comes before the one above it; sort them by time")
        rows.append(row.columns)
    if len(rows) < LEAST or rows[-1][0] <= rows[0][0]:
        raise LtsRayError(f"{what} is too short: it needs {LEAST} requests that come one after the other")
    columns = np.array(rows)
    return RecordedTrace(path.stem, columns[:, 0] - columns[0, 0], columns[:, 1:].astype(np.int64))


def _csv_lines(text: str, what: str) -> Iterator[tuple[int, Any]]:
    """Other columns may stand beside Azure's; names count in any case."""
    head, _, rest = text.partition("\n")
    names = [name.strip().lower() for name in head.split(",")]
    if missing := [field.name for field in fields(AzureRow) if field.name not in names]:
        raise LtsRayError(f"{what} has no column {missing[0]}: it is neither a CSV file of Azure's nor JSON Lines")
    table = csv.DictReader(rest.split("\n"), names, restkey="more")
    try:
        yield from ((table.line_num + 1, row) for row in table)
    except csv.Error as error:
        raise LtsRayError(f"{what}, line {table.line_num + 1}: {error}") from None


def _json_lines(text: str, what: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip():
                json_value(line)
                yield number, line
        except json.JSONDecodeError as error:
            raise LtsRayError(f"{what}, line {number}: not JSON: {error}") from None
