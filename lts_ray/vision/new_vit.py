"""The model at step 0: fresh from the seed, or one to fine-tune, its neurons in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lts_ray.elasticize.importance import evenly
from lts_ray.errors import LtsRayError
from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_checkpoint import load_vit
from lts_ray.vision.images import ImageData, check_images
from lts_ray.vision.neuron_order import reorder_vit
from lts_ray.vision.vision_settings import VisionSettings


def new_vit(settings: VisionSettings, data: ImageData) -> MatViT:
    """With the granularities that are to be trained. Raises LtsRayError where the images do not fit the model."""
    if settings.init_from is None:
        model = MatViT(settings.model.config(data, settings.granularities))
        model.initialize(torch.Generator().manual_seed(settings.training.seed))
        return model
    labels = tuple(map(str, range(data.classes))) if settings.new_classifier else None
    source = Path(settings.init_from)
    checkpoint = load_vit(source, labels=labels)
    model = checkpoint.model
    if len(set(model.config.widths)) > 1:
        raise LtsRayError(f"{source} has layers of different width: it was extracted, and does not nest again")
    if labels is None and data.classes != len(model.config.labels):
        raise LtsRayError(
            f"the images have {data.classes} classes, but {source} knows {len(model.config.labels)}: "
            "add new_classifier: true for a fresh classifier"
        )
    check_images(data, model.config)
    model.config = replace(model.config, granularities=dict(settings.granularities))
    if settings.by_importance and not checkpoint.nests and len(settings.granularities) > 1:
        places = evenly(len(data.train), settings.calibration_images)  # files may go class by class
        reorder_vit(model, data.train.at(places))
    return model
