"""How far responses strayed from what was forecast for them, and so between which bounds the next one will lie.

The bounds are quantiles of the last responses' ratios (split conformal prediction). Loads change, and with them the
ratios, so the quantiles are steered by how often the bounds held of late: adaptive conformal inference (Gibbs and
Candès, Adaptive Conformal Inference Under Distribution Shift, 2021, section 2), which holds as often as promised
whatever the load does.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

from serve.engine.response import Progress
from serve.policies.budget import KINDS, Kind, Timing
from serve.policies.expectation import CONFIDENCE, Expectation

RESPONSES = 256
"""The last so many count."""
STEERED = 0.02
"""How far one response moves the quantiles: the paper's gamma."""
PRIOR = tuple(0.7 + 0.6 * place / 19 for place in range(20))
"""Ratios that are believed before the first response."""


class _Ratios:
    """Of one kind of time: what was measured over what was forecast."""

    def __init__(self) -> None:
        self._last, self._sorted = deque(PRIOR), list(PRIOR)
        self._outside = 1 - CONFIDENCE  # the share that the quantiles leave out

    def bounds(self) -> tuple[float, float, float]:
        """The lower bound, the median and the upper bound."""
        last = len(self._sorted) - 1
        tail = max(self._outside / 2, 0.0)
        wider = 1 + max(-self._outside, 0.0)  # beyond the extremes where even these held too rarely
        low, high = self._sorted[round(tail * last)], self._sorted[round((1 - tail) * last)]
        return low / wider, self._sorted[last // 2], high * wider

    def note(self, ratio: float, *, inside: bool) -> None:
        self._outside = min(self._outside + STEERED * ((1 - CONFIDENCE) - (not inside)), 0.9)
        if len(self._last) == RESPONSES:
            del self._sorted[bisect_left(self._sorted, self._last.popleft())]
        self._last.append(ratio)
        insort(self._sorted, ratio)


class PredictionErrors:
    """`predict` when a request is admitted, `note` when its response is whole."""

    def __init__(self) -> None:
        self._ratios: dict[Kind, _Ratios] = {kind: _Ratios() for kind in KINDS}

    def predict(self, forecast: Timing, *, waited_ms: float) -> Expectation:
        """forecast: from the arrival on. waited_ms: what has passed of it: it is certain, as all is that came in it."""
        bounds = {kind: self._ratios[kind].bounds() for kind in KINDS}

        def scaled(place: int) -> Timing:
            times = {}
            for kind in KINDS:
                passed = min(_passed(kind, waited_ms), getattr(forecast, f"{kind}_ms"))
                times[f"{kind}_ms"] = passed + bounds[kind][place] * (getattr(forecast, f"{kind}_ms") - passed)
            return Timing(**times)

        return Expectation(forecast=forecast, waited_ms=waited_ms, low=scaled(0), likely=scaled(1), high=scaled(2))

    def note(self, progress: Progress, *, whole: bool) -> None:
        """Of a request that has ended. whole: whether it made all the tokens that it might.

        Of one that began elsewhere nothing is learned: what came between was no engine's work.
        """
        prediction, measured = progress.predicted, progress.measured()
        if prediction is None or measured is None or progress.first_s is None or progress.before:
            return
        for kind in KINDS:
            if (kind == "e2e" and not whole) or (kind == "tpot" and progress.tokens < 2):
                continue
            took, forecast, low, high = (
                getattr(timing, f"{kind}_ms")
                for timing in (measured, prediction.forecast, prediction.low, prediction.high)
            )
            passed = _passed(kind, prediction.waited_ms)
            if forecast > passed:
                self._ratios[kind].note((took - passed) / (forecast - passed), inside=low <= took <= high)


def _passed(kind: Kind, waited_ms: float) -> float:
    """Of what is predicted: tokens after the first have not begun."""
    return 0.0 if kind == "tpot" else waited_ms
