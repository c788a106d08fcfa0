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
    name: str
    submodel: Submodel
    params: int
    accuracy: float
    """Share of images whose class the submodel names."""
    loss: float
    """Nats per image."""
    agreement: float
    """Share of images for which the universal model names the same class."""
    images: int
    """How many there were."""


def image_quality(
    model: MatViT, names: Sequence[str], images: Images, *, progress: Progress = lambda done, total: None
) -> list[ImageQuality]:
    """Of each named submodel. Raises LtsRayError for an unknown name, or images of another size."""
    submodels = [model.config.submodel(name) for name in names]
    universal = model.config.universal
    logits: dict[Submodel, Tensor] = {}
    for submodel in dict.fromkeys((universal, *submodels)):
        logits[submodel] = logits_of(model, images.pixels, submodel)
        progress(len(logits), len({universal, *submodels}))
    choices = {submodel: scores.argmax(dim=-1) for submodel, scores in logits.items()}
    return [
        ImageQuality(
            name=name,
            submodel=submodel,
            params=model.config.params(submodel),
            accuracy=float((choices[submodel] == images.labels).double().mean()),
            loss=float(functional.cross_entropy(logits[submodel].double(), images.labels)),
            agreement=float((choices[submodel] == choices[universal]).double().mean()),
            images=len(images),
        )
        for name, submodel in zip(names, submodels, strict=True)
    ]


def logits_of(model: MatViT, pixels: Tensor, submodel: Submodel) -> Tensor:
    """Pixels [N, C, H, W] in [0, 1] to [N, classes]."""
    with torch.inference_mode():
        return model.classify(encoded(model, pixels, submodel)).float()


def encoded(model: MatViT, pixels: Tensor, submodel: Submodel) -> Tensor:
    """What retrieval compares: pixels [N, C, H, W] in [0, 1] to [N, d_model]."""
    with torch.inference_mode():
        parts = [
            model.encode(normalize(part.to(model.cls_token.device), model.config), submodel=submodel)
            for part in torch.split(pixels, AT_ONCE)
        ]
    return torch.cat(parts)
