"""The region that a set of vectors leaves undominated, as disjoint boxes, and what a random vector gains in it.

The boxes are those of Lacour, Klamroth and Fonseca (2017): from the region's local upper bounds, each kept with the
points that define its coordinates. In three dimensions there are about twice as many boxes as vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """lower, upper: [b, m]. Their union is what lies below the reference and is dominated by no vector."""

    lower: Array
    upper: Array


def undominated_boxes(vectors: Array, reference: Array) -> Boxes:
    """vectors: [n, m], all minimised; those not below `reference` [m] change nothing. Lower sides may be -inf."""
    m = len(reference)
    uppers = reference[None, :].astype(np.float64)
    definers = np.full((1, m, m), -np.inf)  # [b, m, m]: the point that defines coordinate j of upper bound b
    definers[0, np.arange(m), np.arange(m)] = reference
    for vector in vectors[np.argsort(vectors[:, -1], kind="stable")]:
        hit = (vector < uppers).all(axis=1)
        if not hit.any():
            continue
        kept_uppers, kept_definers = [uppers[~hit]], [definers[~hit]]
        for j in range(m):
            others = [k for k in range(m) if k != j]
            largest = definers[hit][:, others, j].max(axis=1) if others else np.full(int(hit.sum()), -np.inf)
            split = vector[j] >= largest
            new_uppers, new_definers = uppers[hit][split], definers[hit][split]
            new_uppers[:, j], new_definers[:, j] = vector[j], vector
            kept_uppers.append(new_uppers)
            kept_definers.append(new_definers)
        uppers, definers = np.concatenate(kept_uppers), np.concatenate(kept_definers)
    lower = np.full_like(uppers, -np.inf)
    for j in range(1, m):
        lower[:, j] = definers[:, :j, j].max(axis=1)
    return Boxes(lower=lower, upper=uppers)


def improvement(vectors: Array, boxes: Boxes) -> Array:
    """The hypervolume that each of vectors [n, m] would add. Returns [n]."""
    gained = np.ones((len(vectors), len(boxes.upper)))
    for j in range(vectors.shape[1]):
        from_here = np.maximum(vectors[:, j, None], boxes.lower[:, j])
        gained *= np.maximum(boxes.upper[:, j] - from_here, 0.0)
    return np.asarray(gained.sum(axis=1))


def expected_improvement(means: Array, deviations: Array, boxes: Boxes) -> Array:
    """The hypervolume that independent normal vectors are expected to add, in closed form. Returns [n].

    means, deviations: [n, m]. In each dimension, the part of a box's side that a value y dominates is
    (upper - y)⁺ - (lower - y)⁺; the expectation of (x - y)⁺ is what `_expected_excess` gives.
    """
    gained = np.ones((len(means), len(boxes.upper)))
    for j in range(means.shape[1]):
        sides, places = np.unique(np.concatenate([boxes.lower[:, j], boxes.upper[:, j]]), return_inverse=True)
        excess = _expected_excess(sides, means[:, j], deviations[:, j])  # sides are shared by many boxes
        lower, upper = np.split(places, 2)
        gained *= excess[:, upper] - excess[:, lower]
    return np.asarray(gained.sum(axis=1))


def _expected_excess(sides: Array, means: Array, deviations: Array) -> Array:
    """E[(side - y)⁺] for y ~ N(mean, deviation²). Returns [n, sides]."""
    spread = np.maximum(deviations, 1e-12)[:, None]
    away = np.where(np.isneginf(sides), -1e9, (sides - means[:, None]) / spread)
    density = np.exp(-0.5 * away**2) / np.sqrt(2 * np.pi)
    tail = away * ndtr(away)
    return np.asarray(spread * (density + tail))
