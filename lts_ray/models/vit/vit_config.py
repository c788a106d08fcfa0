"""The shape of an image classifier that nests, and what its numbers are counted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lts_ray.config_checks import check_positive, check_whole, is_number
from lts_ray.errors import LtsRayError
from lts_ray.models.elastic import GRANULARITIES, ElasticConfig, check_granularities
from lts_ray.models.family import Activation, Family
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class MatViTConfig(ElasticConfig):
    """A vision transformer of pre-norm blocks, read at its class token.

    image_size, patch_size: height and width, in pixels. widths: the full FFN width of each layer. labels: names of the
    classes. head_dim: None: d_model / n_head. pixel_mean, pixel_std: of each channel (one number: of all), by which
    pixels in [0, 1] become the model's input.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    channels: int
    d_model: int
    n_head: int
    widths: tuple[int, ...]
    labels: tuple[str, ...]
    head_dim: int | None = None
    activation: Activation = "gelu"
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-12
    granularities: Mapping[str, float] = field(default_factory=lambda: dict(GRANULARITIES))
    pixel_mean: tuple[float, ...] = (0.5,)
    pixel_std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        for name in ("channels", "d_model", "n_head"):
            check_whole(getattr(self, name), name)
        check_positive(self.layer_norm_eps, "layer_norm_eps")
        for name in ("image_size", "patch_size"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise LtsRayError(f"{name} is a height and a width; got {pair!r}")
            for side in pair:
                check_whole(side, name)
        if any(patch > image for patch, image in zip(self.patch_size, self.image_size, strict=True)):
            raise LtsRayError(f"patches of {self.patch_size} pixels do not fit images of {self.image_size}")
        if not self.widths:
            raise LtsRayError("a model has one layer at least; widths is empty")
        for width in self.widths:
            check_whole(width, "an FFN width")
        if not self.labels:
            raise LtsRayError("a classifier has one class at least; labels is empty")
        if self.head_dim is None and self.d_model % self.n_head:
            raise LtsRayError(f"d_model {self.d_model} does not divide among {self.n_head} heads")
        if self.head_dim is not None:
            check_whole(self.head_dim, "head_dim")
        self._check_pixels()
        check_granularities(self.granularities)
        object.__setattr__(self, "granularities", {name: float(value) for name, value in self.granularities.items()})

    def _check_pixels(self) -> None:
        for name in ("pixel_mean", "pixel_std"):
            values = getattr(self, name)
            if len(values) not in (1, self.channels) or not all(is_number(each) for each in values):
                raise LtsRayError(f"{name} is a number for each of {self.channels} channels; got {values!r}")
        if min(self.pixel_std) <= 0:
            raise LtsRayError(f"pixel_std must be positive; got {self.pixel_std!r}")

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
