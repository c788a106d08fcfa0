"""What the fields of policies may be. They come from configuration files; what is wrong must not wait for a request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from lts_ray.errors import LtsRayError

MOST = 10**6
"""Of anything that is counted."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "float": ("a finite number, not below 0", _is_number),
    "int": (f"a whole number from 0 to {MOST}", _is_whole),
    "tuple[int, ...]": (
        f"a list of whole numbers from 0 to {MOST}",
        lambda value: isinstance(value, list | tuple) and all(map(_is_whole, value)),
    ),
    "str": ("a name", lambda value: isinstance(value, str)),
    "str | None": ("a name, or nothing", lambda value: value is None or isinstance(value, str)),
}
"""By annotation: in words, and whether a value fits."""


def check_fields(policy: Any) -> None:
    """Raise LtsRayError for the first field of the dataclass that is not what its annotation says."""
    for field in fields(policy):
        wanted, fits = KINDS[str(field.type)]
        value = getattr(policy, field.name)
        if not fits(value):
            raise LtsRayError(f"{field.name} must be {wanted}; got {value!r}")
