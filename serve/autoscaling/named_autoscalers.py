"""Autoscalers by the name that the command line and files use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.record import read_record
from serve.autoscaling.attainment_autoscaler import AttainmentAutoscaler, AttainmentSettings
from serve.autoscaling.autoscaler import Autoscaler
from serve.autoscaling.simple_autoscalers import (
    FixedFleet,
    FixedSettings,
    OngoingRequests,
    RayFastSettings,
    RaySettings,
    SloRatio,
    SloRatioSettings,
)

AUTOSCALERS: Mapping[str, tuple[type[Any], type[Any]]] = {
    "attainment": (AttainmentAutoscaler, AttainmentSettings),
    "ray": (OngoingRequests, RaySettings),
    "ray-fast": (OngoingRequests, RayFastSettings),
    "slo-ratio": (SloRatio, SloRatioSettings),
    "fixed": (FixedFleet, FixedSettings),
}
"""With what each may be set to."""


def autoscaler_named(name: str, /, **settings: Any) -> Autoscaler:
    """Raises LtsRayError for an unknown autoscaler, or a setting that it does not have or cannot use."""
    if name not in AUTOSCALERS:
        raise LtsRayError(f"unknown autoscaler {name!r}; known: {', '.join(AUTOSCALERS)}")
    made, known = AUTOSCALERS[name]
    autoscaler: Autoscaler = made(read_record(known, settings, what=name))
    return autoscaler
