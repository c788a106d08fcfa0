"""Laws of what was trained both ways: one for each granularity of each kind, and one for all of a kind together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.laws.scaling_law import Fit, fit
from benchmarks.laws.scaling_points import KINDS, Kind, ScalingPoint
from lts_ray.errors import LtsRayError


@dataclass(frozen=True, kw_only=True)
class KindFit:
    kind: Kind
    granularity: str | None
    """None: all of them together."""
    fit: Fit
    points: tuple[ScalingPoint, ...]
    """What it was fitted to."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.granularity or 'all'}"


def fit_kinds(points: Sequence[ScalingPoint]) -> tuple[KindFit, ...]:
    """Of each kind, the granularities from small to large, and then all together.

    Raises LtsRayError where a granularity of a kind has fewer than four sizes.
    """
    names = list(dict.fromkeys(point.granularity for point in sorted(points, key=lambda point: point.params)))
    fits = []
    for kind in KINDS:
        for name in (*names, None):
            group = [point for point in points if point.kind == kind and name in (None, point.granularity)]
            if group:
                fits.append(_fitted(kind, name, group))
    return tuple(fits)


def _fitted(kind: Kind, granularity: str | None, points: Sequence[ScalingPoint]) -> KindFit:
    try:
        law = fit([point.params for point in points], [point.loss for point in points])
    except LtsRayError as error:
        raise LtsRayError(f"{kind} {granularity or 'all'}: {error}") from None
    return KindFit(kind=kind, granularity=granularity, fit=law, points=tuple(points))
