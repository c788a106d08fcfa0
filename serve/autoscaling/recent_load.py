"""What came to a replica and what it made of late: the same counts of an engine and of a simulated one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from serve.autoscaling.fleet_state import ReplicaLoad
from serve.autoscaling.sustained_rate import RecentRequest
from serve.policies.budget import Timing
from serve.policies.request import Request

WINDOW_S = 60.0
"""So long is of late."""
SLICES = 30
"""Counts leave the window slice by slice."""
REQUESTS = 64
"""The last so many are kept for what looks at them as they are."""
AGAIN, AGAIN_S = 16, 30.0
"""What a replica could sustain is known from so many requests on, and found anew after so many more, or so long."""
Bears = Callable[[Sequence[RecentRequest], float], float]
"""Requests a second that a replica could bear, of these requests and their gaps' CV²."""


@dataclass(slots=True)
class _Slice:
    number: int
    until_s: float
    came: int = 0
    bounded: int = 0
    kept: int = 0
    tokens: int = 0
    loss: float = 0.0


class RecentLoad:
    """Moments are in seconds of one clock, which never goes back."""

    def __init__(self, since_s: float, *, window_s: float = WINDOW_S) -> None:
        """since_s: when the replica began to serve."""
        self._since_s, self._window_s, self._slice_s = since_s, window_s, window_s / SLICES
        self._slices: deque[_Slice] = deque()
        self._requests: deque[RecentRequest] = deque(maxlen=REQUESTS)
        self._arrivals: deque[float] = deque(maxlen=REQUESTS)
        self._used: deque[tuple[float, float]] = deque(maxlen=REQUESTS)
        self._ended = self._known = 0
        self._known_s, self._sustained = since_s, 0.0

    def came(self, at_s: float, count: int = 1) -> None:
        self._at(at_s).came += count

    def made(self, ends_s: Sequence[float], tokens: int, loss: float) -> None:
        """ends_s: of steps. tokens: of each. loss: the sum over these of their submodels' losses."""
        for at_s in ends_s:
            now = self._slices[-1] if self._slices else self._at(at_s)
            if at_s >= now.until_s:
                now = self._at(at_s)
            now.tokens += tokens
            now.loss += loss

    def ended(self, at_s: float, request: Request, timing: Timing, *, tokens: int) -> None:
        """tokens: of the answer. A request that was given up is none."""
        self._requests.append(RecentRequest(len(request.prompt), max(1, tokens), request.budget))
        self._arrivals.append(at_s - timing.e2e_ms / 1e3)
        self._ended += 1
        if request.bounded:
            now, used = self._at(at_s), request.budget.used(timing)
            now.bounded += 1
            now.kept += used <= 1
            self._used.append((at_s, used))

    def load(
        self, now_s: float, *, running: int, waiting: int, bears: Bears, worst_loss: float | None = None
    ) -> ReplicaLoad:
        self._at(now_s)
        used = [share for at_s, share in self._used if at_s > now_s - self._window_s]
        return ReplicaLoad(
            running=running,
            waiting=waiting,
            window_s=min(now_s - self._since_s, self._window_s),
            came=_sum(each.came for each in self._slices),
            bounded=_sum(each.bounded for each in self._slices),
            kept=_sum(each.kept for each in self._slices),
            used_p90=float(np.percentile(used, 90)) if used else 0.0,
            tokens=_sum(each.tokens for each in self._slices),
            loss=_sum(each.loss for each in self._slices),
            sustained=self._borne(now_s, bears),
            worst_loss=worst_loss or 0.0,
        )

    def _borne(self, now_s: float, bears: Bears) -> float:
        more = self._ended - self._known
        if more >= AGAIN or (more and self._known and now_s - self._known_s >= AGAIN_S):
            gaps = np.diff(np.sort(self._arrivals))
            cv2 = float(gaps.var() / gaps.mean() ** 2) if len(gaps) >= AGAIN and gaps.mean() > 0 else 1.0
            self._sustained, self._known, self._known_s = bears(self._requests, cv2), self._ended, now_s
        return self._sustained

    def _at(self, at_s: float) -> _Slice:
        slices, number = self._slices, int(at_s // self._slice_s)
        if not slices or slices[-1].number < number:
            slices.append(_Slice(number, (number + 1) * self._slice_s))
            while slices[0].number <= number - SLICES:
                slices.popleft()
        return slices[-1]


def _sum(counts: Iterable[float]) -> float:
    return float(sum(counts))
