"""How well a proxy agrees with the truth. In every function a higher proxy and a higher truth are the better ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from lts_ray.errors import LtsRayError
from lts_ray.pareto import non_dominated

TOP_PERCENTS = tuple(range(10, 101, 10))

Point = tuple[float, float]
"""Latency in any one unit, and perplexity."""


def spearman(proxy: Sequence[float], truth: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where one of the two does not vary, for it orders nothing."""
    _check(proxy, truth)
    if min(proxy) == max(proxy) or min(truth) == max(truth):
        return 0.0
    return float(spearmanr(proxy, truth).statistic)


def common_ratio(proxy: Sequence[float], truth: Sequence[float], *, percent: float) -> float:
    """The share of the best `percent` by proxy that is also among the best `percent` by truth (LTS, section 4).

    The best are rounded up to whole candidates; of equal ones, the earlier is the better.
    """
    _check(proxy, truth)
    if not 0 < percent <= 100:
        raise LtsRayError(f"percent must be above 0 and at most 100; got {percent}")
    count = math.ceil(len(truth) * percent / 100 - 1e-9)
    return len(_best(proxy, count) & _best(truth, count)) / count


def common_ratios(
    proxy: Sequence[float], truth: Sequence[float], *, percents: Sequence[int] = TOP_PERCENTS
) -> Mapping[int, float]:
    """The common ratio at each of the percents."""
    return {percent: common_ratio(proxy, truth, percent=percent) for percent in percents}


def front_distance(proxy_front: Sequence[Point], true_front: Sequence[Point]) -> float:
    """LTS's d_avg (appendix C): how far a proxy's front lies from the true one, as a mean share of the perplexity.

    Each point of the proxy's front, with its true perplexity, is compared with the point of the true front that is
    closest in latency; of two equally close ones, with the better.
    """
    if not proxy_front or not true_front:
        raise LtsRayError(f"both fronts need points; got {len(proxy_front)} and {len(true_front)}")
    total = 0.0
    for latency, perplexity in proxy_front:
        _, reference = min((abs(other - latency), truth) for other, truth in true_front)
        total += abs(perplexity - reference) / reference
    return total / len(proxy_front)


def proxy_front_distance(*, latencies: Sequence[float], proxy: Sequence[float], perplexities: Sequence[float]) -> float:
    """d_avg of the front that a search by the proxy would find among these candidates; here perplexity is as it is."""
    _check(proxy, perplexities)
    _check(latencies, perplexities)
    points = list(zip(latencies, perplexities, strict=True))
    by_proxy = non_dominated([(latency, -value) for latency, value in zip(latencies, proxy, strict=True)])
    return front_distance([points[index] for index in by_proxy], [points[index] for index in non_dominated(points)])


def _best(values: Sequence[float], count: int) -> set[int]:
    order = np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")
    return set(order[:count].tolist())


def _check(proxy: Sequence[float], truth: Sequence[float]) -> None:
    if len(proxy) != len(truth) or len(truth) < 2:
        raise LtsRayError(f"agreement needs two or more pairs; got {len(proxy)} estimates and {len(truth)} truths")
