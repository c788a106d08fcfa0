"""A service's recorded requests as a load: their times and lengths, both scaled to what a node here can take."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lts_ray.errors import LtsRayError
from lts_ray.files import json_value, read_text
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses, Need
from serve.traffic.load import LENGTHS, TIMES, load_of
from serve.traffic.traces import Times

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""As Azure's traces have them."""
KEYS = ("timestamp", "input_length", "output_length")
"""As Mooncake's have them; the first in milliseconds."""
FITTING = 99
"""Percent of the requests that fit the context once scaled; longer ones are cut."""
LEAST, MOST_TOKENS, MOST_MS = 2, 10**9, 1e15
Row = tuple[float, int, int]
"""Milliseconds, and the tokens of prompt and response."""


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
    """Of a CSV file with the columns COLUMNS, or of JSON Lines with the keys KEYS. Raises LtsRayError for another."""
    text = read_text(path, what="trace")
    rows = _json_rows(text, path) if text.lstrip().startswith("{") else _csv_rows(text, path)
    times, lengths = array("d"), array("q")
    for number, (at_ms, prompt, output) in rows:
        if times and at_ms < times[-1]:
            raise LtsRayError(f"trace {path}, line {number}: a request comes before the one above it; sort them")
        if not 0 <= min(prompt, output) <= max(prompt, output) <= MOST_TOKENS:
            raise LtsRayError(
                f"trace {path}, line {number}: tokens must be 0 to {MOST_TOKENS:,}; got {prompt}, {output}"
            )
        times.append(at_ms)
        lengths.extend((prompt, output))
    if len(times) < LEAST or times[-1] <= times[0]:
        raise LtsRayError(f"trace {path} has too little to replay: it needs {LEAST} requests that come one by one")
    since = np.frombuffer(times) - times[0]
    return RecordedTrace(path.stem, since, np.frombuffer(lengths, dtype=np.int64).reshape(-1, 2))


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    """Azure's. Names of columns count in any case, and others may stand beside them."""
    table = csv.reader(text.splitlines(), strict=True)
    try:
        header = [name.strip().lower() for name in next(table, [])]
        if missing := [name for name in COLUMNS if name.lower() not in header]:
            raise LtsRayError(
                f"trace {path} has no column {missing[0]}: it needs a header with {', '.join(COLUMNS)}, or JSON Lines "
                f"with {', '.join(KEYS)}"
            )
        places = [header.index(name.lower()) for name in COLUMNS]
        for row in filter(None, table):
            try:
                at, prompt, output = (row[place] for place in places)
                yield table.line_num, (_milliseconds(at), int(prompt), int(output))
            except (IndexError, ValueError, OverflowError):
                raise LtsRayError(
                    f"trace {path}, line {table.line_num}: needs a date with a time and two whole numbers; got "
                    f"{','.join(row)[:100]!r}"
                ) from None
    except csv.Error as error:
        raise LtsRayError(f"trace {path}, line {table.line_num}: {error}") from None


def _milliseconds(at: str) -> float:
    """Since 1970. Azure's 2023 traces have seven digits of a second and no zone, those of 2024 +00:00, or no digits."""
    moment = datetime.fromisoformat(at.strip())
    return 1e3 * (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    """Mooncake's. Other keys may stand beside them: prompts are made up, so what they share is not looked at."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json_value(line)
        except json.JSONDecodeError as error:
            raise LtsRayError(f"trace {path}, line {number}: not JSON: {error}") from None
        found: list[Any] = [value.get(name) for name in KEYS] if isinstance(value, dict) else [None] * 3
        at_ms, prompt, output = found
        if (
            isinstance(at_ms, bool)
            or not isinstance(at_ms, int | float)
            or type(prompt) is not int
            or type(output) is not int
        ):
            raise LtsRayError(
                f"trace {path}, line {number}: needs {KEYS[0]}, a number of milliseconds, and the whole numbers "
                f"{KEYS[1]} and {KEYS[2]}"
            )
        if not 0 <= at_ms <= MOST_MS:
            raise LtsRayError(f"trace {path}, line {number}: {KEYS[0]} must be 0 to {MOST_MS:g}; got {at_ms}")
        yield number, (float(at_ms), prompt, output)
