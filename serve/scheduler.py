"""Continuous batching: what runs in the next step. Ids and rows only: no torch, no clock, no widths.

A step is one prefill of the request that waits longest, or one token for every running request. They alternate while
requests wait, so that neither newcomers nor running responses starve. Requests join and leave between steps; the rows
in use are always 0..n-1.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Step:
    """ids: who takes part, in the order of their rows. first_row: the row of ids[0]."""

    phase: Literal["prefill", "decode"]
    ids: tuple[int, ...]
    first_row: int


@dataclass(frozen=True)
class Move:
    """Row `source` is copied onto row `destination`, whose request has left."""

    source: int
    destination: int


class Scheduler:
    def __init__(self, *, slots: int, max_queue: int) -> None:
        self.slots = slots
        self.max_queue = max_queue
        self._waiting: deque[int] = deque()
        self._running: list[int] = []
        self._prefilled_last = False

    @property
    def waiting(self) -> tuple[int, ...]:
        """Ids in the order of arrival."""
        return tuple(self._waiting)

    @property
    def running(self) -> tuple[int, ...]:
        """Ids in the order of their rows."""
        return tuple(self._running)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self.max_queue

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, request_id: int) -> bool:
        """Queue a request; False, and nothing kept, when the queue is full."""
        if self.is_full:
            return False
        self._waiting.append(request_id)
        return True

    def step(self) -> Step | None:
        """What runs next, or None when there is nothing to do. A prefill's request is running from here on."""
        may_prefill = self._waiting and len(self._running) < self.slots
        if may_prefill and not (self._prefilled_last and self._running):
            request_id = self._waiting.popleft()
            self._running.append(request_id)
            self._prefilled_last = True
            return Step("prefill", (request_id,), len(self._running) - 1)
        self._prefilled_last = False
        return Step("decode", tuple(self._running), 0) if self._running else None

    def remove(self, request_id: int) -> Move | None:
        """Take a request out, wherever it is. Returns the move that keeps the rows in use together, if one is needed.

        An unknown id is no error: a client may cancel what has just ended.
        """
        if request_id in self._waiting:
            self._waiting.remove(request_id)
            return None
        if request_id not in self._running:
            return None
        row, last = self._running.index(request_id), len(self._running) - 1
        self._running[row] = self._running[last]
        self._running.pop()
        return None if row == last else Move(source=last, destination=row)
