"""A simulated fleet over time: what became of a load is put together by stretches of equal length.

A request counts where it came, whenever it ended. So a day of a million requests is a few hundred numbers a line, for
a page and for programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.simulate.attainment_score import loss_of
from serve.simulate.fleet_run import FleetRun, FleetSample
from serve.simulate.request_outcome import Outcome

LEAST, MOST = 20, 120
"""Stretches: fewer than MOST where requests are so few that one would have less than REQUESTS on average."""
REQUESTS = 12
LENGTHS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
DIGITS = 6
Line = tuple[float | None, ...]
"""A number for each stretch; None: nothing to tell."""


@dataclass(frozen=True, kw_only=True)
class KindSeries:
    """Means over each stretch."""

    up: Line
    """Replicas that serve."""
    coming: Line
    """Replicas that were asked for and do not serve yet."""
    running: Line
    """Requests."""
    waiting: Line
    """Requests in the replicas' queues."""


@dataclass(frozen=True, kw_only=True)
class FleetSeries:
    stretch_s: float
    """How long each is; the first begins with the load."""
    came_s: Line
    """Requests a second."""
    attainment: Line
    """The share of the requests with a budget that kept all of its bounds."""
    by_class: Mapping[str, Line]
    """The same, of each class's requests."""
    loss: Line
    """Mean over all tokens that were asked for; those that never came count at the narrowest submodel's."""
    margin: Line
    """What answers left of the bound that was nearest, as a share of it: the median. Below 0: it was missed."""
    margin_tenth: Line
    """The same, that nine of ten have at least."""
    kinds: Mapping[str, KindSeries]
    """By kind of node; empty where no samples were taken."""
    cost: Line
    """Of all replicas until the stretch's end."""


def fleet_series(run: FleetRun, *, losses: Mapping[str, float], narrowest: str) -> FleetSeries:
    """losses: measured, by submodel."""
    outcomes, samples = run.outcomes, run.samples
    end_ms = max(samples[-1].at_s * 1e3 if samples else 0.0, max((outcome.end_ms for outcome in outcomes), default=0.0))
    stretch_s = _stretch_s(end_ms / 1e3, len(outcomes))
    count = int(end_ms // (1e3 * stretch_s)) + 1
    places = (np.array([outcome.arrival.at_ms for outcome in outcomes]) // (1e3 * stretch_s)).astype(np.int64)
    bounded = np.array([bool(outcome.budget) for outcome in outcomes], dtype=bool)
    met = np.array([outcome.met for outcome in outcomes], dtype=bool)
    classes = np.array([outcome.arrival.klass for outcome in outcomes], dtype=np.str_)
    lost = np.array([loss_of(outcome, losses=losses, narrowest=narrowest) for outcome in outcomes]).reshape(-1, 2)

    def mean(values: NDArray[Any], of: NDArray[Any]) -> Line:
        sums, totals = (np.bincount(places, weights, minlength=count) for weights in (values, of))
        return _line(np.divide(sums, totals, out=np.full(count, np.nan), where=totals > 0))

    def share(of: NDArray[np.bool_]) -> Line:
        return mean(met & of, of)

    ends = np.searchsorted([sample.at_s for sample in samples], stretch_s * np.arange(1, count + 1))

    def sampled(read: Callable[[FleetSample], float], *, last: bool = False) -> Line:
        """Over the samples of each stretch; where it has none, the last one before."""
        values = np.array([read(sample) for sample in samples], dtype=np.float64)
        parts = [values[max(0, min(begin, end - 1)) : end] for begin, end in pairwise([0, *ends])]
        return _line([np.nan if not len(part) else part[-1] if last else part.mean() for part in parts])

    margins = np.array([_margin(outcome) for outcome in outcomes], dtype=np.float64)
    known = ~np.isnan(margins)
    by_stretch = [margins[known & (places == place)] for place in range(count)]
    return FleetSeries(
        stretch_s=stretch_s,
        came_s=_line(np.bincount(places, minlength=count) / stretch_s),
        attainment=share(bounded),
        by_class={str(klass): share(bounded & (classes == klass)) for klass in np.unique(classes[bounded])},
        loss=mean(lost[:, 0], lost[:, 1]),
        margin=_percentile(by_stretch, 50),
        margin_tenth=_percentile(by_stretch, 10),
        kinds={
            kind: KindSeries(**{part.name: sampled(partial(_of_kind, kind, part.name)) for part in fields(KindSeries)})
            for kind in (samples[0].kinds if samples else ())
        },
        cost=sampled(lambda sample: sample.cost, last=True),
    )


def _stretch_s(end_s: float, requests: int) -> float:
    least = end_s / min(MOST, max(LEAST, requests // REQUESTS))
    return next((length for length in LENGTHS_S if length >= least), LENGTHS_S[-1] * (1 + least // LENGTHS_S[-1]))


def _of_kind(kind: str, part: str, sample: FleetSample) -> float:
    return float(getattr(sample.kinds[kind], part))


def _margin(outcome: Outcome) -> float:
    """NaN: no budget, or no answer."""
    timing = outcome.timing
    if timing is None or not outcome.budget:
        return np.nan
    return min(1 - float(getattr(timing, f"{kind}_ms")) / limit for kind, limit in outcome.budget.items().items())


def _percentile(values: Sequence[NDArray[np.float64]], percent: float) -> Line:
    return _line([np.percentile(each, percent) if len(each) else np.nan for each in values])


def _line(values: Sequence[float] | NDArray[np.float64]) -> Line:
    return tuple(None if np.isnan(value) else round(float(value), DIGITS) for value in values)
