"""How many requests a second there will be some minutes from now, by those that came and by the same time yesterday.

Several forecasts, each with the reserve with which, in the last hour, no more came than it said but for a given share
of requests; that one is believed which asked for least so. A level and a trend, each smoothed exponentially (Holt's
filter, its trend damped and no more than doubling the level), times how the rate went on yesterday from the same time
of the day, once a day is known: it follows what goes on for longer than replicas take to come up. And means over longer
times: what comes in bursts shorter than that is borne by what is there, or not at all.
"""

from __future__ import annotations

from collections import deque
from math import exp

import numpy as np

DAY_S, BIN_S = 86_400.0, 900.0
KNOWN_S = 3_600.0
"""Forecasts so old say nothing of how far those of now are off."""
MEANS_S = (600.0, 3_600.0)
"""The other forecasts are means over so long."""
FEW = 20
"""With fewer forecasts that have come true, the reserve is a guess."""
MOST = 8.0
"""No reserve is more."""


class RateForecast:
    """Times are of one clock, which never goes back; `note` comes before the others."""

    def __init__(self, *, level_s: float, trend_s: float) -> None:
        """Over so long each is a mean, the newest counting most."""
        self._level_s, self._trend_s = level_s, trend_s
        self._at_s: float | None = None
        self._since_s = self.level = self._trend = 0.0
        self._means = [0.0] * len(MEANS_S)
        self._made: deque[tuple[float, list[float]]] = deque()
        self._past: deque[tuple[float, float, list[float]]] = deque()
        self._days: dict[int, tuple[int, float]] = {}

    def note(self, now_s: float, rate: float, *, ahead_s: float) -> None:
        """rate: that came, until now. ahead_s: of the forecasts that are held against what comes."""
        if self._at_s is None:
            self._at_s = self._since_s = now_s
            self.level, self._means = rate, [rate for _ in MEANS_S]
        passed_s, self._at_s = now_s - self._at_s, now_s
        if passed_s > 0:
            before = self.level
            share, slow = 1 - exp(-passed_s / self._level_s), 1 - exp(-passed_s / self._trend_s)
            self.level += self._trend * passed_s * 0.5 + share * (rate - self.level - self._trend * passed_s * 0.5)
            self.level = max(self.level, 0.0)
            self._trend += slow * ((self.level - before) / passed_s - self._trend)
            for place, over_s in enumerate(MEANS_S):
                share = min(passed_s / min(over_s, now_s - self._since_s), 1.0)
                self._means[place] += share * (rate - self._means[place])
        while self._made and self._made[0][0] <= now_s:
            self._past.append((now_s, rate, self._made.popleft()[1]))
        while self._past and self._past[0][0] < now_s - KNOWN_S:
            self._past.popleft()
        self._made.append((now_s + ahead_s, self._all(ahead_s)))
        place, day = int(now_s % DAY_S // BIN_S), int(now_s // DAY_S)
        known = self._days.get(place)
        self._days[place] = (day, rate if known is None or known[0] != day else 0.9 * known[1] + 0.1 * rate)

    @property
    def proven(self) -> bool:
        """Whether enough forecasts have come true to learn from."""
        return len(self._past) >= FEW

    def at(self, ahead_s: float) -> float:
        """Requests a second, so long from now, by the level and the trend."""
        damped_s = self._trend_s * (1 - exp(-ahead_s / self._trend_s))
        ahead = min(max(self.level + self._trend * damped_s, 0.5 * self.level), 2 * self.level)
        return ahead * self._rise(ahead_s)

    def within(self, ahead_s: float, *, beyond: float, guess: float) -> tuple[float, float]:
        """The forecast that is believed, and the factor within which what comes is, but for the share `beyond` of
        requests. guess: the factor while there is nothing to learn it from."""
        if not self.proven:
            return self.at(ahead_s), guess
        came = np.array([rate for _, rate, _ in self._past])
        forecasts = np.array([made for *_, made in self._past]).T
        low, high = np.zeros((len(forecasts), 1)), np.full((len(forecasts), 1), MOST)
        while float((high - low).max()) > 0.005:
            factor = (low + high) / 2
            fits = np.maximum(came - factor * forecasts, 0).sum(axis=1, keepdims=True) <= beyond * came.sum()
            low, high = np.where(fits, low, factor), np.where(fits, factor, high)
        best = int(np.argmin(high[:, 0] * forecasts.mean(axis=1)))
        return self._all(ahead_s)[best], max(float(high[best, 0]), 1 + (guess - 1) * FEW / len(self._past))

    def _all(self, ahead_s: float) -> list[float]:
        return [self.at(ahead_s), *self._means]

    def _rise(self, ahead_s: float) -> float:
        """How the rate went on yesterday; 1 where it is not known."""
        assert self._at_s is not None
        then_s = self._at_s + ahead_s
        before = self._days.get(int(self._at_s % DAY_S // BIN_S))
        later = self._days.get(int(then_s % DAY_S // BIN_S))
        yesterday = int(then_s // DAY_S) - 1
        if before is None or later is None or later[0] != yesterday or before[1] <= 0:
            return 1.0
        return float(min(max(later[1] / before[1], 1.0), 2.0))
