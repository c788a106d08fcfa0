"""How many requests a second there will be some minutes from now, by those that came and by the same time yesterday.

A level and a trend, each smoothed exponentially (Holt's filter, its trend damped and no more than doubling the level);
times how the rate went on yesterday from the same time of the day, once a day is known. How far such forecasts were
off of late says how much more to expect: a quantile of what came, over what had been forecast for then.
"""

from __future__ import annotations

from collections import deque
from math import exp

import numpy as np

DAY_S, BIN_S = 86_400.0, 900.0
KNOWN_S = 3_600.0
"""Forecasts so old say nothing of how far those of now are off."""
FEW = 20
"""With fewer forecasts that have come true, the reserve is a guess."""


class RateForecast:
    """Times are of one clock, which never goes back; `note` comes before `at`."""

    def __init__(self, *, level_s: float, trend_s: float) -> None:
        """Over so long each is a mean, the newest counting most."""
        self._level_s, self._trend_s = level_s, trend_s
        self._at_s: float | None = None
        self.level = self._trend = 0.0
        self._made: deque[tuple[float, float]] = deque()
        self._errors: deque[tuple[float, float]] = deque()
        self._days: dict[int, tuple[int, float]] = {}

    def note(self, now_s: float, rate: float, *, ahead_s: float) -> None:
        """rate: that came, until now. ahead_s: of the forecasts that are held against what comes."""
        if self._at_s is None:
            self.level, self._at_s = rate, now_s
        passed_s, self._at_s = now_s - self._at_s, now_s
        if passed_s > 0:
            before = self.level
            share, slow = 1 - exp(-passed_s / self._level_s), 1 - exp(-passed_s / self._trend_s)
            self.level += self._trend * passed_s * 0.5 + share * (rate - self.level - self._trend * passed_s * 0.5)
            self.level = max(self.level, 0.0)
            self._trend += slow * ((self.level - before) / passed_s - self._trend)
        while self._made and self._made[0][0] <= now_s:
            _, forecast = self._made.popleft()
            if forecast > 0:
                self._errors.append((now_s, rate / forecast))
        while self._errors and self._errors[0][0] < now_s - KNOWN_S:
            self._errors.popleft()
        self._made.append((now_s + ahead_s, self.at(ahead_s)))
        place, day = int(now_s % DAY_S // BIN_S), int(now_s // DAY_S)
        known = self._days.get(place)
        self._days[place] = (day, rate if known is None or known[0] != day else 0.9 * known[1] + 0.1 * rate)

    def at(self, ahead_s: float) -> float:
        """Requests a second, so long from now."""
        damped_s = self._trend_s * (1 - exp(-ahead_s / self._trend_s))
        ahead = min(max(self.level + self._trend * damped_s, 0.5 * self.level), 2 * self.level)
        return ahead * self._rise(ahead_s)

    def reserve(self, share: float, guess: float) -> float:
        """A factor within which so large a share of what came was, of what had been forecast."""
        if len(self._errors) < FEW:
            return guess
        return float(np.quantile([error for _, error in self._errors], share))

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
