"""The shape of an image classifier that nests, and what its numbers are counted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from pydantic import SkipValidation

from lts_ray.errors import LtsRayError
from lts_ray.models.elastic_config import GRANULARITIES, ElasticConfig, check_granularities
from lts_ray.models.family import Activation, Family
from lts_ray.record import Positive, Whole, record
from lts_ray.submodel import Submodel


@record()
class MatViTConfig(ElasticConfig):
    """A vision transformer of pre-norm blocks, read at its class token."""

    image_size: tuple[Whole, Whole]
    """Height and width, in pixels."""
    patch_size: tuple[Whole, Whole]
    """Height and width, in pixels."""
    channels: Whole
    """Colours of a pixel."""
    d_model: Whole
    """Width of what the layers hand on."""
    n_head: Whole
    """Attention heads of each layer."""
    widths: tuple[Whole, ...]
    """The full FFN width of each layer."""
    labels: tuple[str, ...]
    """Names of the classes."""
    head_dim: Whole | None = None
    """Width of an attention head. None: d_model / n_head."""
    activation: Activation = "gelu"
    """Of the FFN's neurons."""
    qkv_bias: bool = True
    """Whether queries, keys and values have biases."""
    layer_norm_eps: Positive = 1e-12
    """What a norm adds to the variance."""
    granularities: Annotated[Mapping[str, float], SkipValidation] = field(default_factory=lambda: dict(GRANULARITIES))
    """The trained FFN fractions by name, smallest first."""
    pixel_mean: tuple[float, ...] = (0.5,)
    """Of each channel, or one for all: what is taken from pixels in [0, 1]."""
    pixel_std: tuple[Positive, ...] = (0.5,)
    """Of each channel, or one for all: by what they are then divided, to become the model's input."""

    def __post_init__(self) -> None:
        if any(patch > image for patch, image in zip(self.patch_size, self.image_size, strict=True)):
            raise LtsRayError(f"patches of {self.patch_size} pixels do not fit images of {self.image_size}")
        if not self.widths:
            raise LtsRayError("a model has one layer at least; widths is empty")
        if not self.labels:
            raise LtsRayError("a classifier has one class at least; labels is empty")
        if self.head_dim is None and self.d_model % self.n_head:
            raise LtsRayError(f"d_model {self.d_model} does not divide among {self.n_head} heads")
        for name in ("pixel_mean", "pixel_std"):
            values = getattr(self, name)
            if len(values) not in (1, self.channels):
                raise LtsRayError(f"{name} is a number for each of {self.channels} channels; got {values!r}")
        check_granularities(self.granularities)
        object.__setattr__(self, "granularities", {name: float(value) for name, value in self.granularities.items()})

    @property
    def family(self) -> Family:
        return Family(
            name="vit",
            norm="layer",
            activation=self.activation,
            gated=False,
            positions="learned",
            qkv_bias=self.qkv_bias,
            out_bias=True,
            ffn_bias=True,
        )

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_head if self.head_dim is None else self.head_dim

    @property
    def patches(self) -> int:
        """Of an image; pixels past the last whole patch are not seen."""
        (height, width), (tall, wide) = self.image_size, self.patch_size
        return (height // tall) * (width // wide)

    def params(self, submodel: Submodel) -> int:
        """All parameters of the submodel as a model of its own."""
        d_model, inner = self.d_model, self.n_head * self.d_head
        attention = 3 * inner * (d_model + self.qkv_bias) + (inner + 1) * d_model
        layer = attention + 2 * 2 * d_model + d_model  # two norms, and the bias behind the FFN
        neurons = sum(self.check(submodel).widths) * (2 * d_model + 1)
        patch = self.channels * self.patch_size[0] * self.patch_size[1]
        embedding = (patch + 1) * d_model + (1 + 1 + self.patches) * d_model
        return embedding + self.n_layer * layer + neurons + 2 * d_model + (d_model + 1) * len(self.labels)
