"""The time that passes while the engine works, beside the time that was predicted: what `Deviation` is learned from.

A window is a run of steps that were predicted to take a certain time together. The windows of the last steps say what
such a prediction comes to: their median what is likely, their upper quantile what is safe. The quantile is that of
conformal prediction: of n windows the ceil((n + 1) q)-th, so that the next one is within it with probability q.
Windows that begin with a piece of a prompt are a first token's, others a further token's, and all a whole response's.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from serve.policies.budget import KINDS, Kind
from serve.policies.deviation import Array, Deviation

HORIZONS_MS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
HORIZONS = np.array(HORIZONS_MS)
STEPS = 2048
"""The last so many count."""
RENEWED = 128
"""Steps after which the quantiles are taken anew."""
FIRST = (8, 16, 32, 64)
"""And after so many of the first ones."""
STARTS = 256
"""Windows of each horizon; more of them, which overlap, would say little more."""
PRIOR, SPREAD = 32, 1.15
"""What was believed before the first step is forgotten after so many windows, one after the other; by it, so many times
what is likely is safe."""


class ElapsedTime:
    """`note` every step; `deviation` is what the last ones say. attainment: how often `safe` is to be kept."""

    def __init__(self, *, attainment: float) -> None:
        self._attainment = attainment
        self._predicted, self._passed, self._prompt = (
            array("d", bytes(8 * STEPS)),
            array("d", bytes(8 * STEPS)),
            bytearray(STEPS),
        )
        self._steps = 0
        self.deviation = self._learned()

    def note(self, predicted_ms: float, passed_ms: float, *, prompt: bool) -> None:
        """prompt: whether the step read a piece of one."""
        self.note_all((predicted_ms,), (passed_ms,), prompt=prompt)

    def note_all(self, predicted_ms: Sequence[float], passed_ms: Sequence[float], *, prompt: bool) -> None:
        """Of steps one after the other."""
        steps, predicted, passed, prompts = self._steps, self._predicted, self._passed, self._prompt
        for foreseen, took in zip(predicted_ms, passed_ms, strict=True):
            place = steps % STEPS
            predicted[place], passed[place], prompts[place] = foreseen, took, prompt
            steps += 1
            if steps % RENEWED == 0 or steps in FIRST:
                self._steps = steps
                self.deviation = self._learned()
        self._steps = steps

    def _learned(self) -> Deviation:
        known, oldest = min(self._steps, STEPS), self._steps % STEPS if self._steps > STEPS else 0
        predicted, passed = (
            np.concatenate([[0.0], np.cumsum(np.roll(np.frombuffer(times), -oldest)[:known])])
            for times in (self._predicted, self._passed)
        )
        prompt = np.roll(np.frombuffer(self._prompt, dtype=np.bool_), -oldest)[:known]
        prior = [(1.0, SPREAD)] * len(HORIZONS_MS)
        e2e = self._windows(predicted, passed, np.arange(known), prior)
        rows: dict[Kind, list[tuple[float, float]]] = {
            "ttft": self._windows(predicted, passed, np.flatnonzero(prompt), e2e),
            "tpot": self._windows(predicted, passed, np.flatnonzero(~prompt), e2e),
            "e2e": e2e,
        }
        return Deviation(
            horizons_ms=HORIZONS_MS,
            likely=tuple(tuple(middle for middle, _ in rows[kind]) for kind in KINDS),
            safe=tuple(tuple(max(upper, 1.02 * middle) for middle, upper in rows[kind]) for kind in KINDS),
        )

    def _windows(
        self, predicted: Array, passed: Array, starts: NDArray[np.int64], prior: list[tuple[float, float]]
    ) -> list[tuple[float, float]]:
        """At each horizon the median and the upper quantile of the windows that begin at `starts`.

        predicted, passed: sums of steps.
        """
        if len(starts) > STARTS:
            starts = starts[np.linspace(0, len(starts) - 1, STARTS).astype(np.int64)]
        begun, last = predicted[starts], len(predicted) - 1
        stops = np.searchsorted(predicted, begun + HORIZONS[:, None])
        counts = (stops <= last).sum(axis=1).tolist()  # later ones are not over yet; at each horizon these are the last
        stops = np.minimum(stops, last)
        spans = predicted[stops] - begun
        ratios = passed[stops] - passed[starts]
        found = []
        for n, span, ratio, (middle, upper) in zip(counts, spans, ratios, prior, strict=True):
            share, low, high = 0.0, middle, upper
            if n:
                over = np.sort(ratio[:n] / span[:n])
                news = min(n, predicted[-1] / float(span[:n].mean()))  # windows that overlap are not all news
                share = min(1.0, news / PRIOR)
                low, high = float(over[n // 2]), float(over[min(n, ceil((n + 1) * self._attainment)) - 1])
            found.append((middle + share * (low - middle), upper + share * (high - upper)))
        return found
