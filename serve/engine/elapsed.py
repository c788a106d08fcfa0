"""The time that passes while the engine works, beside the time that was predicted: what `Deviation` is learned from.

A window is a run of steps that were predicted to take a certain time together. The windows of the last steps say what
such a prediction comes to: their median what is likely, their upper quantile what is safe. The quantile is that of
conformal prediction: of n windows the ceil((n + 1) q)-th, so that the next one is within it with probability q.
Windows that begin with a piece of a prompt are a first token's, others a further token's, and all a whole response's.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from serve.policies.budget import KINDS, Kind
from serve.policies.deviation import Array, Deviation

HORIZONS_MS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
STEPS = 2048
"""The last so many count."""
RENEWED = 128
"""Steps after which the quantiles are taken anew; of the first ones, more often."""
STARTS = 256
"""Windows of each horizon; more of them, which overlap, would say little more."""
PRIOR, SPREAD = 32, 1.15
"""What was believed before the first step is forgotten after so many windows, one after the other; by it, so many times
what is likely is safe."""


class ElapsedTime:
    """`note` every step; `deviation` is what the last ones say. attainment: how often `safe` is to be kept."""

    def __init__(self, *, attainment: float) -> None:
        self._attainment = attainment
        self._predicted, self._passed = np.zeros(STEPS), np.zeros(STEPS)
        self._prompt = np.zeros(STEPS, dtype=np.bool_)
        self._steps = 0
        self.deviation = self._learned()

    def note(self, predicted_ms: float, passed_ms: float, *, prompt: bool) -> None:
        """prompt: whether the step read a piece of one."""
        place = self._steps % STEPS
        self._predicted[place], self._passed[place], self._prompt[place] = predicted_ms, passed_ms, prompt
        self._steps += 1
        if self._steps % RENEWED == 0 or self._steps in (8, 16, 32, 64):
            self.deviation = self._learned()

    def _learned(self) -> Deviation:
        known, oldest = min(self._steps, STEPS), self._steps % STEPS if self._steps > STEPS else 0
        predicted, passed = (
            np.concatenate([[0.0], np.cumsum(np.roll(times, -oldest)[:known])])
            for times in (self._predicted, self._passed)
        )
        prompt = np.roll(self._prompt, -oldest)[:known]
        starts: dict[Kind, NDArray[np.int64]] = {
            "ttft": np.flatnonzero(prompt),
            "tpot": np.flatnonzero(~prompt),
            "e2e": np.arange(known),
        }
        rows: dict[Kind, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for horizon_ms in HORIZONS_MS:
            every = self._window(predicted, passed, starts["e2e"], horizon_ms, (1.0, SPREAD))
            rows["e2e"].append(every)
            for kind in ("ttft", "tpot"):
                rows[kind].append(self._window(predicted, passed, starts[kind], horizon_ms, every))
        return Deviation(
            horizons_ms=HORIZONS_MS,
            likely=tuple(tuple(middle for middle, _ in rows[kind]) for kind in KINDS),
            safe=tuple(tuple(max(upper, 1.02 * middle) for middle, upper in rows[kind]) for kind in KINDS),
        )

    def _window(
        self, predicted: Array, passed: Array, starts: NDArray[np.int64], horizon_ms: float, prior: tuple[float, float]
    ) -> tuple[float, float]:
        """The median and the upper quantile of the windows that begin at `starts`. predicted, passed: sums of steps."""
        middle, upper = prior
        if len(starts) > STARTS:
            starts = starts[np.linspace(0, len(starts) - 1, STARTS).astype(np.int64)]
        stops = np.searchsorted(predicted, predicted[starts] + horizon_ms)
        whole = stops < len(predicted)
        starts, stops = starts[whole], stops[whole]
        if not (n := len(starts)):
            return middle, upper
        spans = predicted[stops] - predicted[starts]
        ratios = np.sort((passed[stops] - passed[starts]) / spans)
        news = min(n, predicted[-1] / float(spans.mean()))  # windows that overlap are not all news
        share = min(1.0, news / PRIOR)
        middle += share * (float(ratios[n // 2]) - middle)
        upper += share * (float(ratios[min(n, ceil((n + 1) * self._attainment)) - 1]) - upper)
        return middle, upper
