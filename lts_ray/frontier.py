"""The one file that search hands to serving: which submodels are worth running on which target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json
from lts_ray.record import read_record, record, record_json
from lts_ray.submodel import FIELDS, Submodel
from lts_ray.target import Target

SCHEMA = 2
READ_SCHEMAS = (1, 2)
"""Schema 1 also had each target's step costs, which serving measures itself, and a `loss` of minus the parameters."""
Quality = Literal["validation_loss", "decoder_params", "few_shot"]
"""What stands for quality: measured loss in nats per token, LTS's training-free proxy, or a model of trained rows."""
MEASURED: Quality = "validation_loss"
QUALITY_KEYS: Mapping[Quality, str] = {
    "validation_loss": "loss",
    "few_shot": "predicted_loss",
    "decoder_params": "decoder_params",
}
"""What a number is called, by the quality that it is, wherever it goes out."""


@record(what="point")
class FrontierPoint:
    """One evaluated submodel."""

    name: str
    """A granularity's, or the relative size such as 0.62; a precision that is not the stored one follows: S@int4."""
    submodel: Submodel
    """What it runs of the universal model."""
    decoder_params: int
    """Of all its layers, an encoder's among them where there is one."""
    loss: float | None = None
    """Validation loss in nats per token; None where it was not measured and the parameters stand for quality."""
    costs: Mapping[str, Cost]
    """By target."""
    fronts: tuple[str, ...]
    """The targets on whose front it lies."""

    @property
    def shortfall(self) -> float:
        """Higher is worse: the loss, or without one minus the parameters."""
        return -float(self.decoder_params) if self.loss is None else self.loss

    def to_json(self) -> dict[str, Any]:
        """What the submodel is made of are keys of the point; a loss that was not measured is left out."""
        written = record_json(self)
        rest = {key: written[key] for key in written if key not in ("name", "submodel")}
        if self.loss is None:
            del rest["loss"]
        return {"name": self.name, **self.submodel.fields(), **rest}


@record(what="frontier")
class Frontier:
    """Points on the front of at least one target, and the trained granularities; best quality first."""

    model_fingerprint: str
    """SHA-256 of the model that the points are submodels of."""
    quality: Quality
    """What stood for quality in the search."""
    targets: Mapping[str, Target]
    """The kinds of node that were measured, by name."""
    points: tuple[FrontierPoint, ...]
    """Best quality first."""

    def __post_init__(self) -> None:
        odd = [point.name for point in self.points if (point.loss is not None) != (self.quality == MEASURED)]
        if odd:
            raise LtsRayError(
                f"a frontier's points have a loss where its quality is {MEASURED}, and only there; its quality is "
                f"{self.quality}, and wrong are the points {', '.join(odd)}"
            )

    def front(self, target: str) -> tuple[FrontierPoint, ...]:
        """The non-dominated points on `target`, best quality first."""
        if target not in self.targets:
            raise LtsRayError(f"the frontier has no target {target!r}; it has: {', '.join(self.targets)}")
        return tuple(point for point in self.points if target in point.fronts)

    def check_model(self, fingerprint: str, check: Callable[[Submodel], object]) -> None:
        """Raise LtsRayError unless this frontier is of that very model. check: raises it for what the model has not."""
        if fingerprint != self.model_fingerprint:
            raise LtsRayError(
                f"the frontier is of another model (fingerprint {self.model_fingerprint[:12]}…, this model's is "
                f"{fingerprint[:12]}…): run `lts-ray search` for this model"
            )
        for point in self.points:
            check(point.submodel)

    def to_json(self) -> dict[str, Any]:
        points = [point.to_json() for point in self.points]
        return {"schema": SCHEMA, **record_json(self), "points": points}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Frontier:
        """Raises LtsRayError for an unknown schema or a malformed record."""
        schema = value.get("schema")
        if schema not in READ_SCHEMAS:
            raise LtsRayError(f"the frontier has schema {schema!r}; this version reads 1 and 2")
        try:
            targets = value["targets"]
            if schema == 1:
                targets = {name: entry["target"] for name, entry in targets.items()}
            points = [_point_values(point, has_loss=value["quality"] == MEASURED) for point in value["points"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise LtsRayError(f"the frontier is malformed: {error!r}") from None
        rest = {key: value[key] for key in value if key != "schema"}
        return read_record(cls, {**rest, "targets": targets, "points": points}, what="frontier")


def _point_values(point: Mapping[str, Any], *, has_loss: bool) -> dict[str, Any]:
    """A point's keys as the record has them: the submodel as one value, and a loss only where it was measured."""
    own = {key: point[key] for key in point if key in FIELDS}
    rest = {key: point[key] for key in point if key not in own and (key != "loss" or has_loss)}
    return {**rest, "submodel": own}


def write_frontier(frontier: Frontier, path: Path) -> None:
    write_json(path, frontier.to_json())


def read_frontier(path: Path) -> Frontier:
    try:
        return Frontier.from_json(read_json(path, what="frontier"))
    except LtsRayError as error:
        message = str(error)
        raise LtsRayError(message if str(path) in message else f"{path}: {message}") from None
