"""Dominance and hypervolume, by moocore. Every objective is minimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import moocore
import numpy as np

Named = TypeVar("Named")
Objectives = tuple[float, ...]


def non_dominated(vectors: Sequence[Objectives]) -> list[int]:
    """Indices of the vectors that no other dominates, in their order. Equal vectors do not dominate one another."""
    if not vectors:
        return []
    kept = moocore.is_nondominated(np.asarray(vectors, dtype=np.float64), keep_weakly=True)
    return [int(index) for index in np.flatnonzero(kept)]


def front_of(vectors: Mapping[Named, Objectives]) -> dict[Named, Objectives]:
    """Those that no other dominates, in their order. A front and what comes later can be merged: dominance is
    transitive, so what an earlier vector was dropped for still dominates it."""
    items = list(vectors.items())
    return dict(items[index] for index in non_dominated(list(vectors.values())))


def hypervolume(vectors: Sequence[Objectives], reference: Objectives) -> float:
    """The volume that the vectors dominate up to `reference`; what lies beyond it adds nothing."""
    if not vectors:
        return 0.0
    return float(moocore.hypervolume(np.asarray(vectors, dtype=np.float64), ref=np.asarray(reference)))


def relative_hypervolume(vectors: Sequence[Objectives], bounds: tuple[Objectives, Objectives]) -> float:
    """The hypervolume with each objective scaled to [0, 1] by `bounds` (ideal, nadir) and reference point 1.0001.

    An objective that does not vary counts as 0 for every vector.
    """
    if not vectors:
        return 0.0
    low, high = (np.asarray(bound, dtype=np.float64) for bound in bounds)
    span = np.where(high > low, high - low, 1.0)
    scaled = (np.asarray(vectors, dtype=np.float64) - low) / span
    return float(moocore.hypervolume(scaled, ref=np.full(scaled.shape[1], 1.0001)))


def bounds_of(vectors: Sequence[Objectives]) -> tuple[Objectives, Objectives]:
    """The least and the greatest of each objective."""
    array = np.asarray(vectors, dtype=np.float64)
    return tuple(array.min(axis=0).tolist()), tuple(array.max(axis=0).tolist())
