"""What is to happen in virtual time, in order: at one moment steps end first, then all else in the order it was set."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf

Act = Callable[[], None]


class Agenda:
    def __init__(self) -> None:
        self.now_ms = 0.0
        self._entries: list[tuple[float, bool, int, Act]] = []
        self._numbers = count()

    @property
    def next_ms(self) -> float:
        """Infinity where nothing is to happen."""
        return self._entries[0][0] if self._entries else inf

    def at(self, at_ms: float, act: Act, *, ends_step: bool = False) -> None:
        heappush(self._entries, (at_ms, not ends_step, next(self._numbers), act))

    def every(self, seconds: float, act: Act, *, first_s: float) -> None:
        def turn() -> None:
            act()
            self.at(self.now_ms + seconds * 1e3, turn)

        self.at(first_s * 1e3, turn)

    def go_on(self, now_ms: float) -> None:
        """All that happens until then."""
        self.now_ms = now_ms
        while self._entries and self._entries[0][0] <= now_ms:
            heappop(self._entries)[3]()
