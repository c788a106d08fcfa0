"""Does a universal model scale as plain ones do? One training of four granularities, and four plain ones, at each size.

To each granularity, trained both ways, the law loss = a · N^b + c is fitted over the sizes, and one over all
granularities together (MatFormer, appendix C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common.machine import Machine
from benchmarks.common.scale import Scale
from benchmarks.nested.nested_scales import train_scale
from benchmarks.scaling_law import Fit, fit
from benchmarks.scaling_points import KINDS, Kind, ScalingPoint, read_points
from lts_ray.errors import LtsRayError
from lts_ray.training.run_folder import check_output

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class KindFit:
    """granularity: None for all of them together."""

    kind: Kind
    granularity: str | None
    fit: Fit

    @property
    def name(self) -> str:
        return f"{self.kind} {self.granularity or 'all'}"

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "granularity": self.granularity, **self.fit.to_json()}


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Of a granularity at one size: what the universal model's loss is above the baseline's, in nats."""

    granularity: str
    d_model: int
    params: int
    nats: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Result:
    """fits: of each kind, the granularities from small to large, and then all together.

    machine: that the runs were trained on; None where they were there already.
    """

    points: tuple[ScalingPoint, ...]
    fits: tuple[KindFit, ...]
    machine: Machine | None = None

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Where both kinds were trained at a size; of several runs, the last is taken."""
        alone = {(each.granularity, each.params): each.loss for each in self.points if each.kind == "baseline"}
        return tuple(
            Gap(
                granularity=each.granularity,
                d_model=each.d_model,
                params=each.params,
                nats=each.loss - alone[each.granularity, each.params],
            )
            for each in self.points
            if each.kind == "universal" and (each.granularity, each.params) in alone
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": None if self.machine is None else asdict(self.machine),
            "fits": [each.to_json() for each in self.fits],
            "gaps": [each.to_json() for each in self.gaps],
            "points": [each.to_json() for each in self.points],
        }

    def summary(self) -> dict[str, Any]:
        """What is claimed, in a line."""
        return {
            each.name: {key: round(value, 4) for key, value in each.fit.law.to_json().items()}
            | {"rms": round(each.fit.rms, 4)}
            for each in self.fits
        }


def run(scales: Sequence[Scale], folder: Path, *, say: Callable[[str], None] = lambda line: None) -> Result:
    """Train what is not trained yet under folder/SCALE, then fit; killed, the same call goes on. Raises LtsRayError."""
    check_output(folder)
    folders = [each for scale in scales for each in train_scale(scale, folder / scale.name, say=say).values()]
    return replace(fit_points(read_points([each.path for each in folders])), machine=Machine.here())


def fit_points(points: Sequence[ScalingPoint]) -> Result:
    """Raises LtsRayError where a granularity of a kind has fewer than four sizes."""
    names = list(dict.fromkeys(each.granularity for each in sorted(points, key=lambda each: each.params)))
    fits = []
    for kind in KINDS:
        mine = [each for each in points if each.kind == kind]
        groups = {name: [each for each in mine if each.granularity == name] for name in names}
        fits += [_fitted(kind, name, group) for name, group in groups.items() if group]
        if mine:
            fits.append(_fitted(kind, None, mine))
    return Result(points=tuple(points), fits=tuple(fits))


def _fitted(kind: Kind, granularity: str | None, points: Sequence[ScalingPoint]) -> KindFit:
    try:
        found = fit([each.params for each in points], [each.loss for each in points])
    except LtsRayError as error:
        raise LtsRayError(f"{kind} {granularity or 'all'}: {error}") from None
    return KindFit(kind=kind, granularity=granularity, fit=found)
