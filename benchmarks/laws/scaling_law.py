"""How a loss falls with size: loss = a · N^b + c (MatFormer, appendix C), fitted to a few trained models.

Three numbers from four points say little, and very different ones fit almost as well: each fit therefore carries what
it would have been without each of its sizes. It is for the sizes in between, and for comparing two kinds of models at
the same sizes; a, b and c alone are no finding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar, nnls

from benchmarks.laws.scaling_points import KINDS, Kind, ScalingPoint
from lts_ray.errors import LtsRayError

LEAST_SIZES = 4
"""Three points are met by a law exactly, whatever they are: nothing would say how well."""
LOG_SLOPES = np.log(np.geomspace(1e-3, 10, 81))
"""Of -b, which is looked for between the first and the last."""
LEAST_FALL = 1e-12
"""Losses that do not fall have a law that falls by nothing: this share of them."""
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """loss = a · N^b + c, in nats; N: parameters without embeddings."""

    a: float
    b: float
    c: float
    """The loss that no size goes below."""

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.a, self.b, self.c)))
        if not finite or self.a <= 0 or self.b >= 0 or self.c < 0:
            raise LtsRayError(
                f"a scaling law has a above 0, b below 0 and c of at least 0; got {self.a}, {self.b} and {self.c}"
            )

    def loss_at(self, params: float) -> float:
        if params <= 0:
            raise LtsRayError(f"a scaling law is of models with at least one parameter; got {params}")
        return self.a * math.exp(self.b * math.log(params)) + self.c


@dataclass(frozen=True, kw_only=True)
class Fit:
    law: ScalingLaw
    rms: float
    """Of what the points are off the law, in nats."""
    points: int
    without: tuple[ScalingLaw, ...]
    """The law fitted without each of the sizes, growing."""

    def spread(self, of: Callable[[ScalingLaw], float]) -> tuple[float, float]:
        """The least and the greatest that `of` is, over the fits that leave a size out."""
        values = [of(law) for law in self.without]
        return min(values), max(values)


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


def fit(params: Sequence[float], losses: Sequence[float]) -> Fit:
    """The law of least squared error in nats; the same for the same points in any order.

    Raises LtsRayError for points that are no numbers, and for fewer than four different sizes.
    """
    if len(params) != len(losses):
        raise LtsRayError(f"each size needs one loss; got {len(params)} sizes and {len(losses)} losses")
    for size, loss in zip(params, losses, strict=True):
        if not (math.isfinite(size) and math.isfinite(loss) and size >= 1 and loss > 0):
            raise LtsRayError(
                f"a scaling law is fitted to sizes of at least 1 and losses above 0; got loss {loss} at size {size}"
            )
    sizes = sorted(set(params))
    if len(sizes) < LEAST_SIZES:
        raise LtsRayError(
            f"a scaling law needs models of at least {LEAST_SIZES} sizes; got {len(sizes)}: train more sizes"
        )
    order = np.lexsort((losses, params))
    n, nats = np.asarray(params, dtype=float)[order], np.asarray(losses, dtype=float)[order]
    law = _least_squares(n, nats)
    errors = [law.loss_at(size) - loss for size, loss in zip(n, nats, strict=True)]
    return Fit(
        law=law,
        rms=math.sqrt(float(np.mean(np.square(errors)))),
        points=len(n),
        without=tuple(_least_squares(n[n != size], nats[n != size]) for size in sizes),
    )


def _least_squares(params: Values, losses: Values) -> ScalingLaw:
    """For each b the best a and c are a linear problem: so the search is over b alone, and finds no false valley.

    params, losses: [P]. Sizes are over their geometric mean, so that a is a loss and not astronomical.
    """
    centre = float(np.mean(np.log(params)))
    x = np.log(params) - centre
    ones = np.ones_like(x)

    def solved(log_slope: float) -> tuple[Values, float]:
        """a and c, and how far off they are: the root of the squared errors' sum."""
        factors, rest = nnls(np.stack([np.exp(-math.exp(log_slope) * x), ones], axis=1), losses)
        return np.asarray(factors, dtype=np.float64), float(rest)

    def off(log_slope: float) -> float:
        return solved(log_slope)[1]

    best = int(np.argmin([off(log_slope) for log_slope in LOG_SLOPES]))
    around = float(LOG_SLOPES[max(best - 1, 0)]), float(LOG_SLOPES[min(best + 1, len(LOG_SLOPES) - 1)])
    minimum = minimize_scalar(off, bounds=around, method="bounded", options={"xatol": 1e-12, "maxiter": 200})
    b = -math.exp(minimum.x)
    (a, c), _ = solved(minimum.x)
    a = max(float(a), LEAST_FALL * float(np.mean(losses)) * math.exp(-b * float(x.min())))
    return ScalingLaw(a=math.exp(math.log(a) - b * centre), b=b, c=float(c))
