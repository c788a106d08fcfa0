"""The model at step 0: fresh from the seed, or one to fine-tune, its neurons in order of importance.

As for language models (`lts_ray.elasticize`): a neuron's score is the mean over images of the squared slope of the loss
in the neuron's output, asked from the widest granularity to the narrowest.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from lts_ray.elasticize.importance import evenly, feed_forwards, neuron_scores, reorder_by
from lts_ray.errors import LtsRayError
from lts_ray.memory import check_memory
from lts_ray.models.vit.matvit import MatViT
from lts_ray.models.vit.vit_checkpoint import load_vit
from lts_ray.models.vit.vit_config import MatViTConfig
from lts_ray.seeds import seeded_generator
from lts_ray.submodel import Submodel
from lts_ray.training.run_memory import device_bytes, kept_bytes, learning_bytes
from lts_ray.vision.images import ImageData, Images, check_images, normalize
from lts_ray.vision.vision_settings import VisionSettings


def new_vit(settings: VisionSettings, data: ImageData) -> MatViT:
    """With the granularities that are to be trained. Raises LtsRayError where the images do not fit the model."""
    if settings.init_from is None:
        config = settings.model.config(data, settings.granularities)
        check_vit_memory(settings, config)
        model = MatViT(config)
        model.initialize(seeded_generator(settings.training.seed))
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
    check_vit_memory(settings, model.config)
    model.config = replace(model.config, granularities=dict(settings.granularities))
    if settings.by_importance and not checkpoint.nests and len(settings.granularities) > 1:
        places = evenly(len(data.train), settings.calibration_images)  # files may go class by class
        reorder_vit(model, data.train.at(places))
    return model


def check_vit_memory(settings: VisionSettings, config: MatViTConfig) -> None:
    """Raises LtsRayError where training cannot fit. Of a batch: its moved images, and what a pass keeps of tokens."""
    options = settings.training
    moved = math.prod(size + 2 * settings.images.shift_pixels for size in config.image_size)
    pixels = 4 * options.batch_size * config.channels * moved
    kept = kept_bytes(options.batch_size * (config.patches + 1), config.n_layer * config.d_model, options)
    smaller = "lower model.d_model, model.n_layer or model.d_ff"
    if settings.init_from is not None:
        smaller = "start from a smaller checkpoint (init_from)"
    check_memory(
        {
            smaller: learning_bytes(config.params(config.universal), options),
            "lower training.batch_size or images.shift_pixels": pixels,
            "lower training.batch_size": kept,
        },
        what=f"training on batches of {options.batch_size:,} images",
        there=device_bytes(options),
    )


def reorder_vit(model: MatViT, images: Images) -> None:
    """Reorder `model`'s neurons in place: it computes what it did. The images are gone through once a granularity."""
    for submodel in reversed(list(model.config.trained.values())):
        reorder_by(feed_forwards(model), vit_neuron_importance(model, images, submodel))


def vit_neuron_importance(model: MatViT, images: Images, submodel: Submodel) -> list[Tensor]:
    """Scores of each layer's first neurons, those of `submodel`: [width] float32, one per layer; more is worth more."""
    losses = (
        functional.cross_entropy(model(pixels[None], submodel=submodel), label[None])
        for pixels, label in zip(normalize(images.pixels, model.config), images.labels, strict=True)
    )
    return neuron_scores(feed_forwards(model), submodel, losses, count=len(images))
