"""An architecture that `lts-ray search` found, as what a run is to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json
from lts_ray.models.backbones import BackboneConfig
from lts_ray.spaces.registry import backbone_space

SCHEMA = 1
FILE_NAME = "architectures.json"


def found_architecture(path: Path, name: str | None = None, *, vocab_size: int, context_length: int) -> BackboneConfig:
    """The point `name` of an architectures.json, or of the one in a search's folder; None: its only point.

    Raises LtsRayError, which lists the points where none of them is meant.
    """
    file = path / FILE_NAME if path.is_dir() else path
    raw = read_json(file, what="search result")
    if raw.get("schema") != SCHEMA:
        raise LtsRayError(f"search result {file} has schema {raw.get('schema')!r}; this version reads {SCHEMA}")
    points, backbone = _points(file, raw.get("points")), backbone_space(str(raw.get("space"))).backbone
    known = ", ".join(points)
    if name is None and len(points) > 1:
        raise LtsRayError(f"search result {file} has several architectures; name one of: {known}")
    if name is not None and name not in points:
        raise LtsRayError(f"search result {file} has no architecture {name!r}; it has: {known}")
    return BackboneConfig(
        backbone=backbone,
        architecture=Architecture.from_json(points[next(iter(points)) if name is None else name]),
        vocab_size=vocab_size,
        context_length=context_length,
    )


def _points(file: Path, points: object) -> Mapping[str, object]:
    """Architectures as JSON, by name."""
    if not isinstance(points, list) or not all(isinstance(each, dict) and "architecture" in each for each in points):
        raise LtsRayError(f"search result {file} is not one of architectures: its points have none")
    if not points:
        raise LtsRayError(f"search result {file} has no architectures")
    return {str(each.get("name")): each["architecture"] for each in points}
