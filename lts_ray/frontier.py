"""The one file that search hands to serving: which submodels are worth running on a target, and what a step costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from lts_ray.cost import Cost
from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json
from lts_ray.measurement.cost_model import StepCostModel
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.submodel import Submodel
from lts_ray.target import Target

SCHEMA = 1
Quality = Literal["validation_loss", "decoder_params", "few_shot"]
"""What stands for quality: measured loss in nats per token, LTS's training-free proxy, or a model of trained rows."""


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """One evaluated submodel.

    name: a granularity's name, or the relative size such as 0.62. loss: higher is worse, whatever it stands
    for: validation loss in nats, or minus the decoder parameters. fronts: the targets on whose front it lies.
    """

    name: str
    submodel: Submodel
    decoder_params: int
    loss: float
    costs: Mapping[str, Cost]
    fronts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TargetEntry:
    target: Target
    step_cost: StepCostModel


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Points on the front of at least one target, and the trained granularities; best quality first."""

    model_fingerprint: str
    quality: Quality
    targets: Mapping[str, TargetEntry]
    points: tuple[FrontierPoint, ...]

    def front(self, target: str) -> tuple[FrontierPoint, ...]:
        """The non-dominated points on `target`, best quality first."""
        if target not in self.targets:
            raise LtsRayError(f"the frontier has no target {target!r}; it has: {', '.join(self.targets)}")
        return tuple(point for point in self.points if target in point.fronts)

    def check_model(self, fingerprint: str, config: DecoderConfig) -> None:
        """Raise LtsRayError unless this frontier is of that very model."""
        if fingerprint != self.model_fingerprint:
            raise LtsRayError(
                f"the frontier is of another model (fingerprint {self.model_fingerprint[:12]}…, this model's is "
                f"{fingerprint[:12]}…): run `lts-ray search` for this model"
            )
        for point in self.points:
            config.check(point.submodel)

    def merge(self, other: Frontier) -> Frontier:
        """Both searches' results of one model on different targets, as one frontier."""
        if (other.model_fingerprint, other.quality) != (self.model_fingerprint, self.quality):
            raise LtsRayError("only frontiers of one model and one kind of quality can be merged")
        shared = sorted(self.targets.keys() & other.targets.keys())
        if shared:
            raise LtsRayError(f"both frontiers have the target {', '.join(shared)}: merge different targets")
        points = {point.submodel: point for point in self.points}
        for point in other.points:
            mine = points.get(point.submodel)
            points[point.submodel] = (
                point
                if mine is None
                else replace(mine, costs={**mine.costs, **point.costs}, fronts=(*mine.fronts, *point.fronts))
            )
        ordered = sorted(points.values(), key=lambda point: (point.loss, point.submodel))
        return replace(self, targets={**self.targets, **other.targets}, points=tuple(ordered))

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model_fingerprint": self.model_fingerprint,
            "quality": self.quality,
            "targets": {
                name: {"target": entry.target.to_json(), "step_cost": entry.step_cost.to_json()}
                for name, entry in self.targets.items()
            },
            "points": [
                {
                    "name": point.name,
                    **point.submodel.fields(),
                    "decoder_params": point.decoder_params,
                    "loss": point.loss,
                    "costs": {name: asdict(cost) for name, cost in point.costs.items()},
                    "fronts": list(point.fronts),
                }
                for point in self.points
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Frontier:
        """Raises LtsRayError for another schema or a malformed record."""
        if value.get("schema") != SCHEMA:
            raise LtsRayError(f"the frontier has schema {value.get('schema')!r}; this version reads {SCHEMA}")
        try:
            if value["quality"] not in get_args(Quality):
                raise LtsRayError(
                    f"the frontier's quality is {value['quality']!r}; known: {', '.join(get_args(Quality))}"
                )
            return cls(
                model_fingerprint=str(value["model_fingerprint"]),
                quality=cast(Quality, value["quality"]),
                targets={
                    str(name): TargetEntry(
                        target=Target.from_json(entry["target"]), step_cost=StepCostModel.from_json(entry["step_cost"])
                    )
                    for name, entry in value["targets"].items()
                },
                points=tuple(
                    FrontierPoint(
                        name=str(point["name"]),
                        submodel=_read_submodel(point),
                        decoder_params=int(point["decoder_params"]),
                        loss=float(point["loss"]),
                        costs={str(name): Cost(**cost) for name, cost in point["costs"].items()},
                        fronts=tuple(point["fronts"]),
                    )
                    for point in value["points"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LtsRayError(f"the frontier is malformed: {error!r}") from None


def _read_submodel(point: Mapping[str, Any]) -> Submodel:
    """heads and d_model are named where it has less than all."""
    more = {key: point[key] for key in ("heads", "d_model") if key in point}
    return Submodel.from_json({"widths": point["widths"], **more})


def write_frontier(frontier: Frontier, path: Path) -> None:
    write_json(path, frontier.to_json())


def read_frontier(path: Path) -> Frontier:
    try:
        return Frontier.from_json(read_json(path, what="frontier"))
    except LtsRayError as error:
        message = str(error)
        raise LtsRayError(message if str(path) in message else f"{path}: {message}") from None


def point_names(submodels: Sequence[Submodel], config: DecoderConfig) -> dict[Submodel, str]:
    """Short unique names: a granularity's own, else the relative size, told apart by a letter where equal."""
    names = {submodel: name for name, submodel in config.trained.items()}
    taken = set(names.values())
    for submodel in sorted(set(submodels) - names.keys()):
        base = f"{config.relative_size(submodel):.2f}"
        suffixes = ["", *(chr(ord("b") + i) for i in range(25)), *(f"-{i}" for i in range(27, 27 + len(submodels)))]
        names[submodel] = next(base + suffix for suffix in suffixes if base + suffix not in taken)
        taken.add(names[submodel])
    return {submodel: names[submodel] for submodel in submodels}
