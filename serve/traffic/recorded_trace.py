"""A service's recorded requests as a load: their times and lengths, both scaled to what a node here can take."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lts_ray.errors import LtsRayError
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses, Need
from serve.traffic.load import LENGTHS, TIMES, load_of
from serve.traffic.traces import Times

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""As Azure's traces have them."""
FITTING = 99
"""Percent of the requests that fit the context once scaled; longer ones are cut."""
LEAST = 100


@dataclass(frozen=True)
class RecordedTrace:
    name: str
    """The file's, without its ending."""
    times: Times
    """[N], milliseconds from the first request, growing."""
    lengths: NDArray[np.int64]
    """[N, 2]: prompt and response."""

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
        if part_ms > whole_ms:
            raise LtsRayError(f"{self.name} has {len(self.times)} requests, fewer than {seconds:g} s of {rate:.1f}/s")
        begin_ms = np.random.default_rng([seed, TIMES]).uniform(0, whole_ms - part_ms)
        rows = slice(*np.searchsorted(self.times, [begin_ms, begin_ms + part_ms]))
        times = (self.times[rows] - begin_ms) * (1e3 * seconds / part_ms)
        return load_of(times, self.scaled(context_length)[rows], seed=seed, need=need, classes=classes)


def read_recorded(path: Path) -> RecordedTrace:
    """Of a CSV file with a header and the columns COLUMNS. Raises LtsRayError for another."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [[row[name] for name in COLUMNS] for row in csv.DictReader(file)]
        moments = [datetime.fromisoformat(at[:26]).timestamp() for at, _, _ in rows]  # to microseconds
        lengths = np.array([[int(prompt), int(output)] for _, prompt, output in rows], dtype=np.int64).reshape(-1, 2)
    except (OSError, UnicodeDecodeError) as error:
        raise LtsRayError(f"cannot read the trace {path}: {error}") from None
    except (KeyError, ValueError, TypeError, csv.Error):
        raise LtsRayError(f"{path} is no trace: it needs a header and the columns {', '.join(COLUMNS)}") from None
    times = 1e3 * (np.array(moments) - moments[0]) if moments else np.zeros(0)
    if len(times) < LEAST or np.any(np.diff(times) < 0) or times[-1] <= 0:
        raise LtsRayError(f"{path} is no trace: it needs at least {LEAST} requests in the order of their times")
    return RecordedTrace(path.stem, times, lengths)
