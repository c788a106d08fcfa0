"""The time that passes while the engine works, beside the time that was predicted: what `Deviation` is learned from.

A window is a run of steps that were predicted to take a certain time together. The windows of the last steps say what
such a prediction comes to: their median what is likely, their upper quantile what is safe. The quantile is that of
conformal prediction: of n windows the ceil((n + 1) q)-th, so that the next one is within it with probability q.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from serve.policies.deviation import Deviation

HORIZONS_MS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
STEPS = 2048
"""The last so many count."""
RENEWED = 64
"""Steps after which the quantiles are taken anew."""
STARTS = 256
"""Windows of each horizon; more of them, which overlap, would say little more."""
PRIOR, SPREAD = 32, 1.15
"""What was believed before the first step is forgotten after so many windows, one after the other; by it, so many times
what is likely is safe."""


class ElapsedTime:
    """`note` every step; `deviation` is what the last ones say. attainment: how often `safe` is to be kept."""

    def __init__(self, *, attainment: float, spread: float = SPREAD) -> None:
        """spread: what is safe over what is likely, before any step has been timed."""
        self._attainment, self._spread = attainment, spread
        self._predicted, self._passed = np.zeros(STEPS), np.zeros(STEPS)
        self._steps = 0
        self.deviation = self._learned()

    def note(self, predicted_ms: float, passed_ms: float) -> None:
        place = self._steps % STEPS
        self._predicted[place], self._passed[place] = predicted_ms, passed_ms
        self._steps += 1
        if self._steps % RENEWED == 0:
            self.deviation = self._learned()

    def _learned(self) -> Deviation:
        known, first = min(self._steps, STEPS), self._steps % STEPS if self._steps > STEPS else 0
        predicted, passed = (
            np.concatenate([[0.0], np.cumsum(np.roll(times, -first)[:known])])
            for times in (self._predicted, self._passed)
        )
        likely, safe = [], []
        for horizon_ms in HORIZONS_MS:
            starts = np.unique(np.linspace(0, max(known - 1, 0), STARTS).astype(np.int64))
            stops = np.searchsorted(predicted, predicted[starts] + horizon_ms)
            starts, stops = starts[stops <= known], stops[stops <= known]
            ratios = np.sort((passed[stops] - passed[starts]) / (predicted[stops] - predicted[starts]))
            middle, upper = 1.0, self._spread
            if n := len(ratios):
                share = min(1.0, predicted[-1] / horizon_ms / PRIOR)  # windows that overlap are not all news
                middle += share * (float(ratios[n // 2]) - middle)
                upper += share * (float(ratios[min(n, ceil((n + 1) * self._attainment)) - 1]) - upper)
            likely.append(middle)
            safe.append(max(upper, 1.02 * middle))
        return Deviation(horizons_ms=HORIZONS_MS, likely=tuple(likely), safe=tuple(safe))
