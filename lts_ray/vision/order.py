"""A plain ViT's neurons in order of importance, before it is trained to nest.

As for language models (`lts_ray.elasticize`): a neuron's score is the mean over images of the squared slope of the loss
in the neuron's output, ⟨w, dL/dw⟩ for w its column of the output projection, asked from the widest granularity to the
narrowest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.architecture import Submodel
from lts_ray.models.feed_forward import FeedForward
from lts_ray.vision.images import Images, normalize
from lts_ray.vision.model import MatViT


def reorder_by_importance(model: MatViT, images: Images) -> None:
    """Reorder `model`'s neurons in place: it computes what it did. The images are gone through once a granularity."""
    for submodel in reversed(list(model.config.trained.values())):
        for ffn, score in zip(feed_forwards(model), neuron_importance(model, images, submodel), strict=True):
            rest = torch.arange(len(score), ffn.width)
            ffn.reorder(torch.cat([score.argsort(descending=True, stable=True), rest]))


def neuron_importance(model: MatViT, images: Images, submodel: Submodel) -> list[Tensor]:
    """Scores of each layer's first neurons, those of `submodel`: [width] float32, one per layer; more is worth more."""
    projections = [each.down_proj.weight for each in feed_forwards(model)]
    scores = [torch.zeros(width) for width in submodel.widths]
    for pixels, label in zip(normalize(images.pixels, model.config), images.labels, strict=True):
        loss = functional.cross_entropy(model(pixels[None], submodel=submodel), label[None])
        gradients = torch.autograd.grad(loss, projections)
        for score, weight, gradient in zip(scores, projections, gradients, strict=True):
            kept = slice(len(score))
            score.add_((weight.detach()[:, kept] * gradient[:, kept]).sum(0).square(), alpha=1 / len(images))
    return scores


def feed_forwards(model: MatViT) -> list[FeedForward]:
    """Of each layer."""
    return [each for each in model.modules() if isinstance(each, FeedForward)]
