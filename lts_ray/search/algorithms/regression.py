"""One objective as a function of features: a Gaussian process fitted anew only when it has seen a fifth more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lts_ray.proxies.gaussian_process import GaussianProcess, condition, fit_process

Array = NDArray[np.float64]
GROWTH = 1.2
"""Hyperparameters hold until there are this many times the points they were fitted to."""


class Regression:
    def __init__(self) -> None:
        self._process: GaussianProcess | None = None
        self._fitted_to = 0
        self._is_log = False

    def learn(self, rows: Sequence[Sequence[float]], values: Sequence[float]) -> None:
        """All that is known: rows [n, f], values [n]."""
        x, y = np.asarray(rows), np.asarray(values)
        is_log = bool((y > 0).all())
        y = np.log(y) if is_log else y
        if self._process is None or is_log != self._is_log or len(y) >= GROWTH * self._fitted_to:
            self._process, self._fitted_to = fit_process(x, y), len(y)
        else:
            self._process = condition(x, y, self._process.hyperparameters)
        self._is_log = is_log

    def predict(self, rows: Sequence[Sequence[float]]) -> tuple[Array, Array]:
        """Means and standard deviations of what would be observed at rows [m, f]: [m] and [m]."""
        assert self._process is not None, "learn() comes first"
        mean, deviation = self._process.predict(np.asarray(rows))
        deviation = np.hypot(deviation, self._process.noise)
        if self._is_log:
            mean = np.exp(mean)
            deviation = mean * deviation
        return mean, deviation
