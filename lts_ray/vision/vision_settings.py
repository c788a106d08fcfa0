"""What training a MatViT is asked to do: one frozen record, read from YAML, in which an unknown key is an error.

How to optimise is said as for language models, by `TrainingSettings`; the keys that speak of text are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from lts_ray.architecture import MOST_LAYERS
from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import GRANULARITIES, check_granularities
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.record import Text, Whole, read_record, record, record_json
from lts_ray.training.run_settings import Shares, TrainingSettings, given_sections
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
OF_TEXT = ("sequence_length", "teacher", "distillation", "workers", "evaluation_blocks", "final_evaluation_blocks")
"""The settings of training that mean nothing here."""


@record(what="model")
class VisionModelSettings:
    """The shape of a fresh model; image size, channels and classes are those of the images."""

    d_model: Whole = 64
    """Width of what the layers hand on."""
    n_head: Whole = 4
    """Attention heads of each layer."""
    n_layer: Annotated[int, Ge(1), Le(MOST_LAYERS)] = 4
    """Layers."""
    d_ff: Whole = 256
    """Neurons of each layer's FFN, at full width."""
    patch_size: Whole = 2
    """Height and width of a patch, in pixels."""

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


@record(what="images")
class ImageSettings:
    """The images to train on."""

    source: Text = DIGITS
    """`digits`, or a folder of .npz files."""
    shift_pixels: Annotated[int, Ge(0), Le(10**6)] = 1
    """How far training moves images each way, at random."""


@record()
class VisionSettings:
    """A whole run."""

    images: ImageSettings = ImageSettings()
    """The images."""
    model: VisionModelSettings = VisionModelSettings()
    """A fresh model."""
    granularities: Shares = field(default_factory=lambda: dict(GRANULARITIES))
    """The FFN fractions to train, by name; `{XL: 1}` is a plain ViT."""
    training: TrainingSettings = TRAINING
    """How to optimise, as for language models, without what speaks of text."""
    init_from: Text | None = None
    """A checkpoint folder, ours or transformers', to fine-tune; `model` is then left alone. None: a fresh model."""
    new_classifier: bool = False
    """Leave that model's classifier for a fresh one, of the images' classes."""
    by_importance: bool = True
    """Sort the neurons of a model that does not nest yet by importance first."""
    calibration_images: Whole = 256
    """Images to train on that importance is found on."""

    def __post_init__(self) -> None:
        check_granularities(self.granularities)
        for name in OF_TEXT:
            if getattr(self.training, name) != getattr(TRAINING, name):
                raise LtsRayError(f"training.{name} is for language models, not for images: leave it out")
        self.training.objective_of(self.granularities)
        if self.init_from is None:
            if self.new_classifier:
                raise LtsRayError("new_classifier is for a model to fine-tune: give init_from, or leave it out")
        elif self.model != VisionModelSettings():
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
        value = record_json(self)
        return {**value, "training": {name: part for name, part in value["training"].items() if name not in OF_TEXT}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> VisionSettings:
        """Keys that are left out keep their defaults. Raises LtsRayError for unknown or unusable ones."""
        return read_record(cls, given_sections(value, training=TRAINING))
