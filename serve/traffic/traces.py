"""When requests come: open-loop arrival processes, each a pure function of (rate, seconds, generator).

rate: mean requests per second over the whole time, for all of them. They return the times of arrival in milliseconds,
growing, in [0, 1000 · seconds); how many there are is random, its mean is rate · seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lts_ray.errors import LtsRayError

Times = NDArray[np.float64]  # [N], milliseconds
Trace = Callable[[float, float, np.random.Generator], Times]

MINUTES = 1440
"""Of a day. The published traces of functions count invocations by the minute."""


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Times:
    """No memory: CV² of the gaps is 1."""
    return _varying(rate, seconds, np.ones(1), rng)


def gamma(rate: float, seconds: float, rng: np.random.Generator, *, cv2: float = 4.0) -> Times:
    """Independent gaps, gamma with the squared coefficient of variation `cv2`: 1 is Poisson, 8 is very bursty.

    The first gap is what is left of one that began before (uniform part of a gap drawn by its length, which for a gamma
    distribution is a gamma with one more shape). Else the mean number would be (cv2 - 1) / 2 too high.
    """
    if cv2 <= 0:
        raise LtsRayError(f"the gaps' CV² must be above 0; got {cv2:g}")
    shape, scale_ms = 1 / cv2, 1e3 * cv2 / rate
    end_ms = 1e3 * seconds
    batch = max(16, int(2 * rate * seconds))
    times = np.array([rng.uniform() * rng.gamma(shape + 1, scale_ms)])
    while times[-1] < end_ms:
        times = np.concatenate([times, times[-1] + np.cumsum(rng.gamma(shape, scale_ms, size=batch))])
    return times[times < end_ms]


def ramp(rate: float, seconds: float, rng: np.random.Generator, *, start: float = 0.5, end: float = 1.5) -> Times:
    """Poisson whose rate goes in a straight line from `start` to `end`, in proportion; `rate` stays the mean."""
    if min(start, end) < 0 or start + end <= 0:
        raise LtsRayError(f"a ramp goes between shares that are not negative, not both 0; got {start:g} and {end:g}")
    return _varying(rate, seconds, np.linspace(start, end, 1001), rng)


def azure_day(rate: float, seconds: float, rng: np.random.Generator) -> Times:
    """A day of a functions service, squeezed into `seconds`. Its shape is synthetic: this is not the Azure data.

    Modelled on what is published of it: about half of the load is constant, the other half follows the day; on top of
    that, minutes to a quarter of an hour of several times the usual rate. Here a burst begins in one of 40 minutes.
    """
    minute = np.arange(MINUTES)
    shape = 0.5 + 0.5 * (1 - np.cos(2 * np.pi * minute / MINUTES))  # from midnight; the mean is 1
    for begin in np.flatnonzero(rng.uniform(size=MINUTES) < 1 / 40):
        shape[begin : begin + rng.integers(2, 16)] *= rng.uniform(2, 5)
    return _varying(rate, seconds, shape, rng)


def _varying(rate: float, seconds: float, shape: NDArray[np.float64], rng: np.random.Generator) -> Times:
    """Poisson with the mean `rate`, in proportion to `shape`: one value for each of equally long parts of the time.

    Given their number, the arrivals of a Poisson process are independent draws from its intensity.
    """
    if rate <= 0 or seconds <= 0:
        raise LtsRayError(f"arrivals need a rate and a time above 0; got {rate:g} per second for {seconds:g} s")
    below = np.concatenate([[0.0], np.cumsum(shape)]) / np.sum(shape)
    edges = np.linspace(0, 1e3 * seconds, len(below))
    times = np.interp(rng.uniform(size=rng.poisson(rate * seconds)), below, edges)
    return np.sort(times)


TRACES: Mapping[str, Trace] = {
    "poisson": poisson,
    "gamma-2": partial(gamma, cv2=2.0),
    "gamma-4": partial(gamma, cv2=4.0),
    "gamma-8": partial(gamma, cv2=8.0),
    "ramp": ramp,
    "azure-day": azure_day,
}


ALIASES = {"day": "azure-day"}


def is_trace(name: str) -> bool:
    return ALIASES.get(name, name) in TRACES


def trace_named(name: str) -> Trace:
    if not is_trace(name):
        raise LtsRayError(f"unknown trace {name!r}; known: {', '.join(TRACES)}")
    return TRACES[ALIASES.get(name, name)]
