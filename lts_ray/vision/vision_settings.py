"""What training a MatViT is asked to do: one frozen record, read from YAML, in which an unknown key is an error.

How to optimise is said as for language models, by `TrainingSettings`; the keys that speak of text are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lts_ray.config_checks import check_switch, check_text, check_whole
from lts_ray.errors import LtsRayError
from lts_ray.files import read_yaml
from lts_ray.models.elastic import GRANULARITIES, check_granularities
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.training.run_settings import TrainingSettings
from lts_ray.vision.images import DIGITS, ImageData

TRAINING = TrainingSettings(
    steps=2500,
    batch_size=64,
    learning_rate=3e-3,
    final_learning_rate=2e-5,
    warmup_steps=100,
    weight_decay=0.05,
    betas=(0.9, 0.99),
    precision="float32",
    evaluate_every=250,
    checkpoint_every=250,
)
"""For the digits, unless told otherwise."""
OF_TEXT = (
    "sequence_length",
    "teacher",
    "distillation",
    "workers",
    "evaluation_blocks",
    "final_evaluation_blocks",
)
"""The settings of training that mean nothing here."""


@dataclass(frozen=True, kw_only=True)
class VisionModelSettings:
    """The shape of a fresh model; image size, channels and classes are those of the images."""

    d_model: int = 64
    n_head: int = 4
    n_layer: int = 4
    d_ff: int = 256
    patch_size: int = 2

    def __post_init__(self) -> None:
        for each in fields(self):
            check_whole(getattr(self, each.name), f"model.{each.name}")

    def config(self, data: ImageData, granularities: Mapping[str, float]) -> MatViTConfig:
        channels, height, width = data.train.pixels.shape[1:]
        return MatViTConfig(
            image_size=(height, width),
            patch_size=(self.patch_size, self.patch_size),
            channels=channels,
            d_model=self.d_model,
            n_head=self.n_head,
            widths=(self.d_ff,) * self.n_layer,
            labels=tuple(map(str, range(data.classes))),
            layer_norm_eps=1e-6,
            granularities=dict(granularities),
        )


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """source: `digits` or a folder of .npz files. shift_pixels: how far training moves images each way, at random."""

    source: str = DIGITS
    shift_pixels: int = 1

    def __post_init__(self) -> None:
        check_text(self.source, "images.source")
        check_whole(self.shift_pixels, "images.shift_pixels", at_least=0)


@dataclass(frozen=True, kw_only=True)
class VisionSettings:
    """A whole run.

    granularities: the FFN fractions to train; `{XL: 1}` is a plain ViT. init_from: a checkpoint folder, ours or
    transformers', to fine-tune; `model` is then left alone. new_classifier: leave its classifier for a fresh one, of
    the images' classes. by_importance: put the neurons of a model that does not nest yet in order of importance first,
    found on `calibration_images` of those to train on.
    """

    images: ImageSettings = ImageSettings()
    model: VisionModelSettings = VisionModelSettings()
    granularities: Mapping[str, float] = field(default_factory=lambda: dict(GRANULARITIES))
    training: TrainingSettings = TRAINING
    init_from: str | None = None
    new_classifier: bool = False
    by_importance: bool = True
    calibration_images: int = 256

    def __post_init__(self) -> None:
        check_granularities(self.granularities)
        for name in ("new_classifier", "by_importance"):
            check_switch(getattr(self, name), name)
        check_whole(self.calibration_images, "calibration_images")
        for name in OF_TEXT:
            if getattr(self.training, name) != getattr(TRAINING, name):
                raise LtsRayError(f"training.{name} is for language models, not for images: leave it out")
        self.training.objective_of(self.granularities)
        if self.init_from is None:
            if self.new_classifier:
                raise LtsRayError("new_classifier is for a model to fine-tune: give init_from, or leave it out")
            return
        check_text(self.init_from, "init_from")
        if self.model != VisionModelSettings():
            raise LtsRayError("the shape is that of init_from: leave the section 'model' out")

    def alone(self, name: str) -> VisionSettings:
        """The same run of one granularity as a plain model of its own size: what nesting is held against."""
        if name not in self.granularities:
            raise LtsRayError(
                f"there is no granularity {name!r} to train alone; there is {', '.join(self.granularities)}"
            )
        if self.init_from is not None:
            raise LtsRayError("a granularity is trained alone from fresh weights: leave init_from out")
        width = max(1, round(self.granularities[name] * self.model.d_ff))
        plain = {name: getattr(TRAINING, name) for name in ("objective", "weights", "probabilities")}
        training = replace(self.training, **plain)
        return replace(self, model=replace(self.model, d_ff=width), granularities={"XL": 1.0}, training=training)

    def resolved(self) -> VisionSettings:
        """With paths that mean the same from any folder."""
        source = self.images.source if self.images.source == DIGITS else str(Path(self.images.source).resolve())
        start = None if self.init_from is None else str(Path(self.init_from).resolve())
        return replace(self, images=replace(self.images, source=source), init_from=start)

    def to_json(self) -> dict[str, Any]:
        training = {name: value for name, value in asdict(self.training).items() if name not in OF_TEXT}
        return {**asdict(self), "training": training}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> VisionSettings:
        """Keys that are left out keep their defaults. Raises LtsRayError for unknown or unusable ones."""
        _check_known(cls, value, "the configuration")
        training = {**asdict(TRAINING), **_section(TrainingSettings, value, "training")}
        if isinstance(training["betas"], list):
            training["betas"] = tuple(training["betas"])
        return cls(
            **{
                **value,
                "images": ImageSettings(**_section(ImageSettings, value, "images")),
                "model": VisionModelSettings(**_section(VisionModelSettings, value, "model")),
                "training": TrainingSettings(**training),
            }
        )


def load_vision_settings(path: Path) -> VisionSettings:
    """Read a run's YAML. Raises LtsRayError for a missing file, bad YAML, or unknown or unusable keys."""
    raw = read_yaml(path, what="configuration")
    if not isinstance(raw, dict):
        raise LtsRayError(f"configuration {path} must be a mapping with the sections images, model and training")
    return VisionSettings.from_json(raw)


def _section(kind: type, value: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = value.get(name) or {}
    if not isinstance(section, Mapping):
        raise LtsRayError(f"section {name!r} of the configuration must be a mapping; got {section!r}")
    _check_known(kind, section, f"section {name!r}")
    return dict(section)


def _check_known(kind: type, value: Mapping[str, Any], where: str) -> None:
    known = {each.name for each in fields(kind)}
    unknown = sorted(str(key) for key in value.keys() - known)
    if unknown:
        raise LtsRayError(f"{where} has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}")
