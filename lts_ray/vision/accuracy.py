"""How good submodels are at telling classes, and how far they agree with the universal model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.models.vit.matvit import MatViT
from lts_ray.submodel import Submodel
from lts_ray.vision.images import Images, normalize

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""
AT_ONCE = 256
"""Images in a pass."""


@dataclass(frozen=True, kw_only=True)
class ImageQuality:
    """accuracy: share of images whose class is found. loss: nats per image.

    agreement: share of images for which the universal model finds the same class.
    """

    name: str
    submodel: Submodel
    params: int
    accuracy: float
    loss: float
    agreement: float
    images: int


def image_quality(
    model: MatViT, names: Sequence[str], images: Images, *, progress: Progress = lambda done, total: None
) -> list[ImageQuality]:
    """Of each named submodel. Raises LtsRayError for an unknown name, or images of another size."""
    submodels = [model.config.submodel(name) for name in names]
    universal = model.config.universal
    logits: dict[Submodel, Tensor] = {}
    for each in dict.fromkeys((universal, *submodels)):
        logits[each] = logits_of(model, images.pixels, each)
        progress(len(logits), len({universal, *submodels}))
    choices = {each: found.argmax(dim=-1) for each, found in logits.items()}
    return [
        ImageQuality(
            name=name,
            submodel=each,
            params=model.config.params(each),
            accuracy=float((choices[each] == images.labels).double().mean()),
            loss=float(functional.cross_entropy(logits[each].double(), images.labels)),
            agreement=float((choices[each] == choices[universal]).double().mean()),
            images=len(images),
        )
        for name, each in zip(names, submodels, strict=True)
    ]


def logits_of(model: MatViT, pixels: Tensor, submodel: Submodel) -> Tensor:
    """Pixels [N, C, H, W] in [0, 1] to [N, classes]."""
    with torch.inference_mode():
        return model.classify(encoded(model, pixels, submodel)).float()


def encoded(model: MatViT, pixels: Tensor, submodel: Submodel) -> Tensor:
    """What retrieval compares: pixels [N, C, H, W] in [0, 1] to [N, d_model]."""
    with torch.inference_mode():
        parts = [
            model.encode(normalize(each, model.config), submodel=submodel) for each in torch.split(pixels, AT_ONCE)
        ]
    return torch.cat(parts)
