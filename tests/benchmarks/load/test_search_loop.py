"""The loop over searches that are played: each call does one thing to the log, and ends with a code."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.load.search_loop import MOST_ENDS, SearchLoop
from lts_ray.errors import LtsRayError
from lts_ray.search.search_log import LOG

KILLED = -9


def loop_of(folder: Path, plays: list[tuple[int, list[int], int]]) -> tuple[SearchLoop, asyncio.Event]:
    """plays: how many of the log's evaluations stay, those that follow, and the code; the last one ends it all."""
    loop, stop = SearchLoop([], folder, evaluations=3), asyncio.Event()

    async def once() -> int:
        kept, added, code = plays.pop(0)
        log = loop.folder / LOG
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else ['{"kind": "search"}']
        new = [json.dumps({"kind": "evaluation", "candidate": number}) for number in added]
        loop.folder.mkdir(exist_ok=True)
        log.write_text("\n".join([*lines[: 1 + kept], *new, '{"unfin']), encoding="utf-8")
        loop.note()
        if not plays:
            stop.set()
        return code

    loop._once = once  # type: ignore[method-assign]
    return loop, stop


@pytest.mark.parametrize(
    ("plays", "violations"),
    [
        ([(0, [1], KILLED), (1, [2], KILLED), (2, [3], 0), (0, [1, 2, 3], 0)], []),
        ([(0, [1, 2], KILLED), (1, [3, 4], 0)], ["search-0: 3 evaluations, 1 lost, 0 measured twice"]),
        ([(0, [1], KILLED), (1, [1, 2], 0)], ["search-0: 3 evaluations, 0 lost, 1 measured twice"]),
        ([(0, [1, 2], 0)], ["search-0: 2 evaluations, 0 lost, 0 measured twice"]),
    ],
    ids=["all well", "one lost", "one twice", "one short"],
)
def test_each_log_keeps_what_it_had_and_comes_to_its_count(
    tmp_path: Path, plays: list[tuple[int, list[int], int]], violations: list[str]
) -> None:
    ends = sum(code == 0 for _, _, code in plays)
    loop, stop = loop_of(tmp_path, plays)
    seen: list[str] = []
    note = loop.note

    def first_note() -> None:  # a fault came when the first evaluations were there
        if not seen:
            note()
            seen.extend(loop.lines())

    loop.note = first_note  # type: ignore[method-assign]
    asyncio.run(loop.run(stop))
    assert (loop.violations, loop.reached) == (violations, ends)


def test_a_search_that_cannot_run_ends_the_loop(tmp_path: Path) -> None:
    loop, stop = loop_of(tmp_path, [(0, [], 2)] * (MOST_ENDS + 2))
    with pytest.raises(LtsRayError, match="ends with 2 again and again"):
        asyncio.run(loop.run(stop))


def test_a_search_that_is_resumed_after_the_faults_is_let_come_to_its_count(tmp_path: Path) -> None:
    loop, stop = loop_of(tmp_path, [(0, [1, 2, 3], 0), (0, [1], KILLED), (1, [2, 3], 0)])
    stop_now = asyncio.Event()
    once = loop._once

    async def stopping() -> int:
        code = await once()
        if loop.reached:
            stop_now.set()
        return code

    loop._once = stopping  # type: ignore[method-assign]
    asyncio.run(loop.run(stop_now))
    assert (loop.reached, loop.evaluations, loop.violations, stop.is_set()) == (2, 6, [], True)
