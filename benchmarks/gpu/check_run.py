"""A run of sections, the most important first: each fails alone, is kept at once, and skipped where time is short."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from lts_ray.console import print_rows
from lts_ray.files import read_json, without_infinities, write_json
from lts_ray.timing import Clock

Found = Iterator[Mapping[str, Any]]
"""Rows, each when it is measured."""


class CardLostError(Exception):
    """After an error on the card the process can do nothing there; another one can."""


class CheckRun:
    """`record` is what there is so far, and always in the file."""

    def __init__(self, output: Path, *, seconds: float, resume: bool = False, clock: Clock = time.monotonic) -> None:
        """seconds: for all. resume: leave out the sections that the file has."""
        self.record: dict[str, Any] = read_json(output, what="record") if resume else {"schema": 1, "sections": {}}
        self.seconds, self._output, self._clock, self._end = seconds, output, clock, clock() + seconds

    @property
    def left_s(self) -> float:
        return self._end - self._clock()

    def rows(self, name: str) -> Sequence[Mapping[str, Any]]:
        return self.record["sections"].get(name, {}).get("rows", [])  # type: ignore[no-any-return]

    def note(self, **what: Any) -> None:
        self.record |= what
        write_json(self._output, without_infinities(self.record))  # type: ignore[arg-type]

    def section(self, name: str, seconds: float, rows: Callable[[], Found]) -> None:
        """Skipped where less than so many seconds are left. Raises CardLostError, once that is noted."""
        if name in self.record["sections"]:
            return
        kept: dict[str, Any] = {"rows": [], "error": None}
        self.record["sections"][name] = kept
        began, lost = self._clock(), False
        try:
            torch.cuda.empty_cache()
            if self.left_s < seconds:
                raise TimeoutError(f"skipped: {self.left_s:.0f} s are left, and it takes {seconds:.0f}")
            for row in rows():
                kept["rows"].append(dict(row))
                self.note()
                if self.left_s <= 0:
                    raise TimeoutError("cut short: the time is up")
        except Exception as error:
            kept["error"] = f"{type(error).__name__}: {error}".partition("\n")[0]
            kept["traceback"] = traceback.format_exc()[-3_000:]
            print(kept["traceback"])
            lost = "CUDA error" in str(error)
        kept["seconds"] = round(self._clock() - began, 1)
        kept["peak_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)  # of all so far
        self.note()
        print(f"{name}: {kept['error'] or 'done'}, {kept['seconds']} s", flush=True)
        for _, alike in groupby(kept["rows"], key=tuple):
            print_rows(list(alike), as_json=False)
        if lost:
            raise CardLostError

    @property
    def holds(self) -> bool:
        """Whether every section ran to its end, and all that had to hold did."""
        sections = self.record["sections"].values()
        return all(not kept["error"] and all(row.get("holds", True) for row in kept["rows"]) for kept in sections)
