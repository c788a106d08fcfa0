"""What a check found, part by part: in the file from the first row on, whatever comes after."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.gpu.prepared_process import PartFailedError
from lts_ray.console import print_rows
from lts_ray.files import without_infinities, write_json
from lts_ray.timing import Clock

Found = Iterator[Mapping[str, Any]]
"""Rows, each when it is measured."""


class CheckRun:
    """`record` is what there is so far, and always in the file."""

    def __init__(self, output: Path, *, seconds: float, clock: Clock = time.monotonic) -> None:
        """seconds: for all."""
        self.record: dict[str, Any] = {"schema": 2, "sections": {}}
        self.output, self._clock, self._end = output, clock, clock() + seconds

    @property
    def left_s(self) -> float:
        return self._end - self._clock()

    def rows(self, kind: str) -> Sequence[Mapping[str, Any]]:
        """Of all sections of that kind, which is the first word of their names."""
        sections = self.record["sections"].items()
        return [row for name, kept in sections if name.split()[0] == kind for row in kept["rows"]]

    def note(self, **what: Any) -> None:
        self.record |= what
        write_json(self.output, without_infinities(self.record))  # type: ignore[arg-type]

    def section(self, name: str, rows: Callable[[], Found], *, after: Callable[[], Mapping[str, Any]] = dict) -> None:
        """Its rows, as far as it came, and why it came no further. after: what else to note then."""
        kept: dict[str, Any] = {"rows": [], "error": None}
        self.record["sections"][name] = kept
        began = self._clock()
        try:
            if self.left_s <= 0:
                raise TimeoutError("skipped: the time is up")
            for row in rows():
                kept["rows"].append(dict(row))
                self.note()
        except BaseException as error:
            told = error.args if isinstance(error, PartFailedError) else (f"{type(error).__name__}: {error}", "")
            kept["error"], kept["words"] = told[0].partition("\n")[0], told[1] or traceback.format_exc()[-3_000:]
            if not isinstance(error, TimeoutError):
                print(kept["words"])
            if not isinstance(error, Exception):  # an interrupt
                raise
        finally:
            kept["seconds"] = round(self._clock() - began, 1)
            kept |= after()
            self.note()
            print(f"{name}: {kept['error'] or 'done'}, {kept['seconds']} s", flush=True)
        for _, alike in groupby(kept["rows"], key=tuple):  # lists and mappings are in the file alone
            shown = [{key: row[key] for key in row if not isinstance(row[key], list | dict)} for row in alike]
            print_rows(shown, as_json=False)

    @property
    def holds(self) -> bool:
        """Whether every section ran to its end, and all that had to hold did."""
        sections = self.record["sections"].values()
        return all(not kept["error"] and all(row.get("holds", True) for row in kept["rows"]) for kept in sections)
