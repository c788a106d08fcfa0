"""What all candidates' measured latencies say of each one's: a model of them all, and each one's own rest.

A submodel's step is nearly a sum over its layers, so that each measurement says something of all the others. A latency
is taken as linear in the candidate's numbers, such as its layers' widths, plus a rest of its own, plus the error of
measuring it. How far the rests spread is learned from all of them (empirical Bayes, by restricted likelihood; Patterson
and Thompson, Biometrika 1971), and of what is not explained each keeps the share of that in the sum of that and its
error. So one that was measured at a bad moment leans on the others, and one that was measured well stands for itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lts_ray.measurement.latency import Latency
from lts_ray.measurement.measurement import Measurement
from lts_ray.spaces.search_space import Candidate

SUREST = 1.96
"""Standard errors from a value to either bound of its 95 % interval."""
CANDIDATES_PER_NUMBER = 2
"""Fewer candidates than this for each number to be learned, and the values stay as they were measured."""
TRIED = 60
"""Spreads of the rests between which the likeliest is chosen, from a thousandth of all that is not explained."""

Array = NDArray[np.float64]


def pooled(
    measured: Mapping[Candidate, Measurement],
    numbers: Mapping[Candidate, Sequence[float]],
    kinds: Mapping[Candidate, Hashable] | None = None,
) -> dict[Candidate, Measurement]:
    """One target's measurements with the pooled latency beside each measured one. numbers: what it is linear in.

    Latencies are pooled with those of the same runtime and of their own kind only.
    """
    result = dict(measured)
    groups: dict[Hashable, list[Candidate]] = {}
    for candidate, measurement in measured.items():
        groups.setdefault((measurement.ran_in, (kinds or {}).get(candidate)), []).append(candidate)
    for those in groups.values():
        features = np.asarray([numbers[candidate] for candidate in those], dtype=np.float64)
        prefill = _pooled([measured[candidate].prefill for candidate in those], features)
        decoded = [latency for candidate in those if (latency := measured[candidate].decode) is not None]
        decode = _pooled(decoded, features) if len(decoded) == len(those) else [measured[each].decode for each in those]
        for candidate, first, second in zip(those, prefill, decode, strict=True):
            result[candidate] = replace(measured[candidate], prefill=first, decode=second)
    return result


def _pooled(latencies: Sequence[Latency], features: Array) -> list[Latency]:
    values = np.asarray([latency.median_ms for latency in latencies])
    bounds = np.asarray([latency.measured_ms for latency in latencies])
    found = pooled_values(values, (bounds[:, 1] - bounds[:, 0]) / (2 * SUREST), features)
    if found is None:
        return list(latencies)
    means, errors = found
    return [
        replace(latency, pooled_ms=(mean, mean - SUREST * error, mean + SUREST * error))
        for latency, mean, error in zip(latencies, means.tolist(), errors.tolist(), strict=True)
    ]


def pooled_values(values: Array, errors: Array, features: Array) -> tuple[Array, Array] | None:
    """The values' posterior means and standard errors, both [n]; None for too few values, or for exact ones.

    values: [n], measured. errors: [n], their standard errors; six blocks tell one's own only roughly, so that half of
    its square is the middle one's of all. features: [n, k], numbers that the values are linear in.
    """
    if not errors.any():
        return None
    design = _design(features)
    count, learned = design.shape
    if count < CANDIDATES_PER_NUMBER * learned:
        return None
    noise = (errors**2 + np.median(errors**2)) / 2
    rests = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    unexplained = float(rests @ rests) / (count - learned)
    if unexplained == 0:
        return None
    tried = unexplained * np.geomspace(1e-3, 10, TRIED)
    spread = max(tried, key=lambda each: _likelihood(values, noise + each, design))
    weights = 1 / (noise + spread)
    covariance = np.linalg.inv((design.T * weights) @ design)
    explained = design @ (covariance @ ((design.T * weights) @ values))
    kept = spread * weights
    means = explained + kept * (values - explained)
    if means.min() <= 0:
        return None  # no sum over parts: the model's say is worth nothing here
    own = np.einsum("ij,jk,ik->i", design, covariance, design)
    return means, np.sqrt(kept * noise + (1 - kept) ** 2 * own)


def _likelihood(values: Array, variances: Array, design: Array) -> float:
    """The logarithm of the restricted likelihood of the variances, up to a constant."""
    weights = 1 / variances
    precision = (design.T * weights) @ design
    coefficients = np.linalg.solve(precision, (design.T * weights) @ values)
    rests = values - design @ coefficients
    determinant = np.linalg.slogdet(precision)[1]
    return float(-(np.log(variances).sum() + determinant + (weights * rests**2).sum()) / 2)


def _design(features: Array) -> Array:
    """A column of ones and the features, without those that say nothing new; all of them orthonormal."""
    columns = np.column_stack([np.ones(len(features)), features / np.maximum(np.abs(features).max(axis=0), 1e-300)])
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > 1e-9 * sizes[0]]
