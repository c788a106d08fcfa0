"""Submodels by the names that a person gives: what the model itself reads, and the points of a frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lts_ray.errors import LtsRayError
from lts_ray.frontier import read_frontier
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.submodel import Submodel


def frontier_points(path: Path | None, fingerprint: str, config: DecoderConfig) -> dict[str, Submodel]:
    """The frontier's submodels by name, smallest first; none without a path.

    Raises LtsRayError if it is of another model.
    """
    if path is None:
        return {}
    frontier = read_frontier(path)
    frontier.check_model(fingerprint, config.check)
    ordered = sorted(frontier.points, key=lambda point: (point.decoder_params, point.submodel))
    return {point.name: point.submodel for point in ordered}


def submodel_of(config: DecoderConfig, name: str, points: Mapping[str, Submodel]) -> Submodel:
    """A frontier's point where there is one of that name, else what the model reads: `XL`, `0.5`, widths.

    A point's name has two decimals; 0.6, which is what a parser of numbers leaves of 0.60, means it too.
    Raises LtsRayError for a name that neither knows.
    """
    name = name.strip()
    for known in (name, _two_decimals(name)):
        if known in points:
            return points[known]
    try:
        return config.submodel(name)
    except LtsRayError as error:
        if not points:
            raise
        raise LtsRayError(f"{error}; or a point of the frontier: {', '.join(points)}") from None


def submodels_of(
    config: DecoderConfig, names: Sequence[str] | None, points: Mapping[str, Submodel]
) -> dict[str, Submodel]:
    """By name, in the order of `names`; None: the granularities, and a frontier's points among them by size."""
    if names is not None:
        return {name: submodel_of(config, name, points) for name in names}
    known = {**points, **config.trained}
    return dict(sorted(known.items(), key=lambda item: (config.decoder_params(item[1]), item[1])))


def _two_decimals(name: str) -> str:
    """Of a number that has no more; anything else as it is."""
    try:
        value = float(name)
    except ValueError:
        return name
    rounded = f"{value:.2f}"
    return rounded if float(rounded) == value else name
