"""A plain ViT's neurons in order of importance, before it is trained to nest.

As for language models (`lts_ray.elasticize`): a neuron's score is the mean over images of the squared slope of the loss
in the neuron's output, ⟨w, dL/dw⟩ for w its column of the output projection, asked from the widest granularity to the
narrowest.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from lts_ray.elasticize.importance import feed_forwards, neuron_scores
from lts_ray.elasticize.reorder import reorder_by
from lts_ray.models.vit.matvit import MatViT
from lts_ray.submodel import Submodel
from lts_ray.vision.images import Images, normalize


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
