"""One candidate's evaluation on all targets, as a search gets it and its log has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.frontier import MEASURED, QUALITY_KEYS, Quality
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

    def to_json(self, quality: Quality) -> dict[str, Any]:
        """quality: what the loss is, which names it."""
        params = quality == "decoder_params"
        return {
            QUALITY_KEYS[quality]: round(-self.loss) if params else self.loss,
            "measurements": {target: measured.to_json() for target, measured in self.measurements.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        try:
            params = "decoder_params" in value  # logs of older versions have them with a minus, as `loss`
            loss = -value["decoder_params"] if params else value.get("loss", value.get("predicted_loss"))
            return cls(
                loss=float(loss),
                measurements={
                    str(target): Measurement.from_json(measured) for target, measured in value["measurements"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LtsRayError(f"an evaluation is not usable: {error!r}") from None


def outcome_to_json(outcome: Evaluation | Failed, quality: Quality = MEASURED) -> dict[str, Any]:
    return {"failed": outcome.reason} if isinstance(outcome, Failed) else outcome.to_json(quality)


def outcome_from_json(value: Mapping[str, Any]) -> Evaluation | Failed:
    return Failed(reason=str(value["failed"])) if "failed" in value else Evaluation.from_json(value)
