"""Sections of a configuration file: mappings in which an unknown key is an error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from lts_ray.errors import LtsRayError


def section_of(kind: type, value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The section `name`, empty where it is left out; its keys are fields of `kind`. Raises LtsRayError."""
    section = mapping_of(value.get(name) or {}, name)
    check_known([each.name for each in fields(kind)], section, f"section {name!r}")
    return dict(section)


def mapping_of(section: object, name: str) -> Mapping[str, Any]:
    if not isinstance(section, Mapping):
        raise LtsRayError(f"section {name!r} of the configuration must be a mapping; got {section!r}")
    return section


def check_known(known: Collection[str], value: Mapping[str, Any], where: str) -> None:
    unknown = sorted(str(key) for key in value.keys() - set(known))
    if unknown:
        raise LtsRayError(f"{where} has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}")
