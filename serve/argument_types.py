"""What arguments of the endpoint may be, as people write them: on a command line all of them are words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from lts_ray.precision import PRECISIONS


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[^:\s]+", name):
        raise ValueError("one word without a colon")
    return name


def _separated(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _checked_precisions(precisions: tuple[str, ...]) -> tuple[str, ...]:
    if not set(precisions) <= set(PRECISIONS):
        raise ValueError(f"some of {', '.join(PRECISIONS)}, with commas between them")
    return precisions


def _checked_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [origin for origin in origins if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin)]
    if wrong:
        raise ValueError("origins such as https://example.org, without a path, or *")
    return origins


def _as_replicas(value: object) -> object:
    return None if value == "auto" else value


def _as_config(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError('a JSON object such as {"min_replicas": 1, "max_replicas": 4}') from None


AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
"""A replica has another working directory than the command that starts it."""
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Replicas = Annotated[Count | None, BeforeValidator(_as_replicas)]
Autoscaling = Annotated[Mapping[str, Any] | None, BeforeValidator(_as_config)]
Names = Annotated[tuple[str, ...], BeforeValidator(_separated)]
Precisions = Annotated[tuple[str, ...], BeforeValidator(_separated), AfterValidator(_checked_precisions)]
Name = Annotated[str, AfterValidator(_checked_name)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_separated), AfterValidator(_checked_origins)]
