"""Searches on a cluster, one after the other: when the driver of one is killed, another one resumes it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lts_ray.errors import LtsRayError
from lts_ray.search.search_log import LOG

MOST_ENDS = 20
"""A search that ends so often by itself without its count is broken."""


class SearchLoop:
    def __init__(self, arguments: Sequence[str | Path], folder: Path, *, evaluations: int) -> None:
        """arguments: of `lts-ray search`, but for its count, seed and folder."""
        self._arguments, self._folder, self._wanted = arguments, folder, evaluations
        self._seen: list[str] = []
        self.driver: int | None = None
        """Its process."""
        self.reached, self.evaluations, self.violations = 0, 0, list[str]()

    @property
    def folder(self) -> Path:
        """Of the search that runs."""
        return self._folder / f"search-{self.reached}"

    def note(self) -> None:
        """What is in the log now is to stay there."""
        self._seen = self.lines()

    def lines(self) -> list[str]:
        """Of the evaluations that are written to the end."""
        log = self.folder / LOG
        lines = log.read_text(encoding="utf-8").split("\n")[1:-1] if log.exists() else []
        return [line for line in lines if json.loads(line)["kind"] == "evaluation"]

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Until `stop`, None: from the start, and then to the count of the search that runs.

        Raises LtsRayError for one that cannot.
        """
        ends = 0
        while True:
            code = await self._once()
            self._check(over=code == 0)
            ends = ends + (code > 0) if code else 0
            if ends > MOST_ENDS:
                raise LtsRayError(f"the search in {self.folder} ends with {code} again and again; see its search.log")
            if code == 0 and (stop is None or stop.is_set()):
                return

    async def _once(self) -> int:
        counts = ["--evaluations", self._wanted, "--seed", self.reached, "--output", self.folder]
        command = ["search", *self._arguments, *counts, *(["--resume"] if (self.folder / LOG).exists() else [])]
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "search.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "lts_ray.cli.main", *map(str, command), stdout=log, stderr=log
            )
        self.driver = process.pid
        try:
            return await process.wait()
        finally:
            self.driver = None
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _check(self, *, over: bool) -> None:
        """That its log has lost nothing and has nothing twice. over: it has ended, and so has its count."""
        lines, name = self.lines(), self.folder.name
        candidates = [json.dumps(json.loads(line)["candidate"]) for line in lines]
        lost, twice = set(self._seen) - set(lines), len(candidates) - len(set(candidates))
        if lost or twice or (over and len(lines) != self._wanted):
            self.violations.append(f"{name}: {len(lines)} evaluations, {len(lost)} lost, {twice} measured twice")
        if over:
            self._seen, self.evaluations, self.reached = [], self.evaluations + len(lines), self.reached + 1
