"""What a single setting may be: each check's LtsRayError has the setting's place, what is allowed and the value."""

from __future__ import annotations

import math
from typing import TypeGuard

from lts_ray.errors import LtsRayError


def is_number(value: object) -> TypeGuard[float]:
    """Neither infinite nor a boolean, which Python counts among the whole numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_whole(value: object, what: str, *, at_least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise LtsRayError(f"{what} must be a whole number of at least {at_least}; got {value!r}")


def check_positive(value: object, what: str) -> None:
    if not is_number(value) or value <= 0:
        raise LtsRayError(f"{what} must be a positive number; got {value!r}")


def check_switch(value: object, what: str) -> None:
    if not isinstance(value, bool):
        raise LtsRayError(f"{what} must be true or false; got {value!r}")


def check_text(value: object, what: str) -> None:
    if not isinstance(value, str) or not value:
        raise LtsRayError(f"{what} must be text; got {value!r}")
