"""One candidate's evaluation on all targets, as a search gets it and its log has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.measurement.measurement import Failed, Measurement


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    loss: float
    """Higher is worse: validation loss in nats per token, or minus the parameters where these stand for quality."""
    measurements: Mapping[str, Measurement]
    """By target."""

    def __post_init__(self) -> None:
        if not isfinite(self.loss):
            raise LtsRayError(f"an evaluation's loss must be finite; got {self.loss}")

    def to_json(self) -> dict[str, Any]:
        return {
            "loss": self.loss,
            "measurements": {target: measured.to_json() for target, measured in self.measurements.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        try:
            return cls(
                loss=float(value["loss"]),
                measurements={
                    str(target): Measurement.from_json(measured) for target, measured in value["measurements"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LtsRayError(f"an evaluation is not usable: {error!r}") from None


def outcome_to_json(outcome: Evaluation | Failed) -> dict[str, Any]:
    return {"failed": outcome.reason} if isinstance(outcome, Failed) else outcome.to_json()


def outcome_from_json(value: Mapping[str, Any]) -> Evaluation | Failed:
    return Failed(reason=str(value["failed"])) if "failed" in value else Evaluation.from_json(value)
