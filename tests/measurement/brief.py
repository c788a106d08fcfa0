"""Measurements of as few runs as may be, also while the machine that runs the tests is busy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lts_ray.measurement import timed_blocks as timing
from lts_ray.measurement.on_ray.actor import MeasurementActor
from lts_ray.measurement.subjects import subject

SETTINGS = (
    (timing, "READINGS", 3),
    (timing, "BASELINE_S", 0.0),
    (timing, "MAX_BLOCKS", timing.MIN_BLOCKS),
    (timing, "MAX_REPEATS", 0),
    (subject, "REFERENCE_VOCAB", 200),
)


def measure_briefly(change: Callable[[Any, str, Any], None] = setattr) -> None:
    for module, name, value in SETTINGS:
        change(module, name, value)


class BriefActor(MeasurementActor):
    """In a process of its own, which ends with it."""

    def __init__(self, *arguments: Any) -> None:
        measure_briefly()
        super().__init__(*arguments)
