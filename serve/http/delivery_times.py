"""How long answers take from the engine's tokens to the server's hands, learned from those that were sent.

The upper quantile is that of conformal prediction, as for the engine's steps (see serve.engine.elapsed).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Literal

from serve.policies.delivery import Delivery

Part = Literal["first", "stream", "whole"]
"""The first token of a stream, and the end of a stream, or of a whole answer."""
ANSWERS = 256
"""The last so many count."""
PRIOR_MS, PRIOR = 1.0, 16
"""What is believed before any answer was sent, and forgotten after so many, one after the other."""


class DeliveryTimes:
    """`note` each; `likely` and `safe` are the median of the last ones, and what is kept as often as `attainment`."""

    def __init__(self, *, attainment: float = 0.99) -> None:
        self._attainment = attainment
        self._times: dict[Part, deque[float]] = {part: deque(maxlen=ANSWERS) for part in ("first", "stream", "whole")}

    def note(self, part: Part, ms: float) -> None:
        self._times[part].append(ms)

    def likely(self, *, whole: bool) -> Delivery:
        return self._delivery(whole, lambda n: n // 2)

    def safe(self, *, whole: bool) -> Delivery:
        return self._delivery(whole, lambda n: min(n, ceil((n + 1) * self._attainment)) - 1)

    def _delivery(self, whole: bool, place: Callable[[int], int]) -> Delivery:
        def at(part: Part) -> float:
            times = sorted(self._times[part])
            share = min(1.0, len(times) / PRIOR)
            return PRIOR_MS + share * (times[place(len(times))] - PRIOR_MS) if times else PRIOR_MS

        return Delivery(first_ms=at("first"), end_ms=at("whole" if whole else "stream"))
