"""What came to a replica and what it made of late: the same counts of an engine and of a simulated one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve.autoscaling.fleet_state import ReplicaLoad
from serve.policies.request import Request

WINDOW_S = 60.0
"""So long is of late."""
SLICES = 30
"""Counts leave the window slice by slice."""
REQUESTS = 256
"""The last so many are kept for what looks at them as they are."""


@dataclass(slots=True)
class _Slice:
    number: int
    came: int = 0
    bounded: int = 0
    kept: int = 0
    tokens: int = 0
    loss: float = 0.0


class RecentLoad:
    """Moments are in seconds of one clock, which never goes back."""

    def __init__(self, since_s: float, *, window_s: float = WINDOW_S) -> None:
        """since_s: when the replica began to serve."""
        self.requests: deque[Request] = deque(maxlen=REQUESTS)
        """The last that came."""
        self._since_s, self._window_s, self._slice_s = since_s, window_s, window_s / SLICES
        self._slices: deque[_Slice] = deque()

    def came(self, at_s: float, request: Request) -> None:
        self.requests.append(request)
        self._at(at_s).came += 1

    def made(self, ends_s: Sequence[float], tokens: int, loss: float) -> None:
        """ends_s: of steps. tokens: of each. loss: the sum over these of their submodels' losses."""
        for at_s in ends_s:
            now = self._at(at_s)
            now.tokens += tokens
            now.loss += loss

    def ended(self, at_s: float, *, kept: bool) -> None:
        """A request with a budget."""
        now = self._at(at_s)
        now.bounded += 1
        now.kept += kept

    def load(self, now_s: float, *, running: int, waiting: int, sustained: float = 0.0) -> ReplicaLoad:
        self._at(now_s)
        return ReplicaLoad(
            running=running,
            waiting=waiting,
            window_s=min(now_s - self._since_s, self._window_s),
            came=_sum(each.came for each in self._slices),
            bounded=_sum(each.bounded for each in self._slices),
            kept=_sum(each.kept for each in self._slices),
            tokens=_sum(each.tokens for each in self._slices),
            loss=_sum(each.loss for each in self._slices),
            sustained=sustained,
        )

    def _at(self, at_s: float) -> _Slice:
        slices, number = self._slices, int(at_s // self._slice_s)
        if not slices or slices[-1].number < number:
            slices.append(_Slice(number))
            while slices[0].number <= number - SLICES:
                slices.popleft()
        return slices[-1]


def _sum(counts: Iterable[float]) -> float:
    return float(sum(counts))
