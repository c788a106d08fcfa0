"""Architectures that `lts-ray search` found, as what a run is to train: one, or several fused into a supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json
from lts_ray.models.backbones.backbone_config import BackboneConfig
from lts_ray.models.backbones.supernet_config import SupernetConfig
from lts_ray.spaces.named_spaces import backbone_space

SCHEMA = 2
READ_SCHEMAS = (1, SCHEMA)
"""Schema 1 also had a `loss`, which was what stood for quality: a predicted one, or minus the parameters."""
FILE_NAME = "architectures.json"
FROM = "from"
SIZES = ("vocab_size", "context_length")
WHERE = "section 'architecture'"


def found_architecture(path: Path, name: str | None = None, *, vocab_size: int, context_length: int) -> BackboneConfig:
    """The point `name` of an architectures.json, or of the one in a search's folder; None: its only point.

    Raises LtsRayError, which lists the points where none of them is meant.
    """
    backbone, points, file = _read(path)
    if name is None and len(points) > 1:
        raise LtsRayError(f"search result {file} has several architectures; name one of: {', '.join(points)}")
    chosen = next(iter(points)) if name is None else name
    return BackboneConfig(
        backbone=backbone,
        architecture=_chosen(points, [chosen], file)[chosen],
        vocab_size=vocab_size,
        context_length=context_length,
    )


def found_supernet(path: Path, names: Sequence[str], *, vocab_size: int, context_length: int) -> SupernetConfig:
    """Several points, fused. Raises LtsRayError as `found_architecture` does, and for points that cannot be."""
    backbone, points, file = _read(path)
    return SupernetConfig(
        backbone=backbone,
        members=_chosen(points, names, file),
        vocab_size=vocab_size,
        context_length=context_length,
    )


def found_names(path: Path) -> list[str]:
    """Of all points."""
    return list(_read(path)[1])


def architecture_of(section: object, *, vocab_size: int, context_length: int) -> BackboneConfig | SupernetConfig:
    """What a run's section `architecture` says: a backbone, several by name, or points of a search.

    vocab_size, context_length: where the section has none. Raises LtsRayError.
    """
    if not isinstance(section, Mapping):
        raise LtsRayError(f"{WHERE} must be a mapping; got {section!r}")
    of_a_search = FROM in section or "points" in section
    kind: type[BackboneConfig] | type[SupernetConfig] = SupernetConfig if "members" in section else BackboneConfig
    known = (FROM, "points", *SIZES) if of_a_search else [field.name for field in fields(kind)]
    unknown = ", ".join(sorted(section.keys() - set(known)))
    if unknown:
        raise LtsRayError(f"{WHERE} has unknown keys {unknown}; known: {', '.join(sorted(known))}")
    given = {"vocab_size": vocab_size, "context_length": context_length, **section}
    if not of_a_search:
        return kind.from_json(given)
    path, names = section.get(FROM), section.get("points")
    if not isinstance(path, str) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LtsRayError(
            f"{WHERE} takes `from`, a search's architectures.json, and `points`, a list of names in it; "
            f"got {path!r} and {names!r}"
        )
    return found_supernet(Path(path), names, **{name: given[name] for name in SIZES})


def _read(path: Path) -> tuple[str, Mapping[str, object], Path]:
    """The backbone, architectures as JSON by name, and the file."""
    file = path / FILE_NAME if path.is_dir() else path
    raw = read_json(file, what="search result")
    if raw.get("schema") not in READ_SCHEMAS:
        raise LtsRayError(f"search result {file} has schema {raw.get('schema')!r}; this version reads 1 and 2")
    points = raw.get("points")
    if not isinstance(points, list) or not all(isinstance(point, dict) and "architecture" in point for point in points):
        raise LtsRayError(f"search result {file} is not one of architectures: its points have none")
    if not points:
        raise LtsRayError(f"search result {file} has no architectures")
    backbone = backbone_space(str(raw.get("space"))).backbone
    return backbone, {str(point.get("name")): point["architecture"] for point in points}, file


def _chosen(points: Mapping[str, object], names: Sequence[str], file: Path) -> dict[str, Architecture]:
    for name in names:
        if name not in points:
            raise LtsRayError(f"search result {file} has no architecture {name!r}; it has: {', '.join(points)}")
    if len(set(names)) < len(names):
        raise LtsRayError(f"points of search result {file} are to be named once each; got {', '.join(names)}")
    return {name: Architecture.from_json(points[name]) for name in names}
