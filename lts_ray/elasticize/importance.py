"""How much each FFN neuron matters to a trained model: what the loss would change, to first order, without it.

Scaling neuron i's output by g has dL/dg = ⟨w_i, dL/dw_i⟩ at g = 1, for w_i its column of the output projection: one
backward pass scores all neurons of all layers, whatever is in the block. The mean square over sequences is the score
(Molchanov et al., 2019, for groups of weights).

In that order the universal model computes what it did, and its submodels are what they can be. From the widest
granularity to the narrowest: which half matters most is asked of the whole model, which half of that half is asked of
the model that has only the first half left, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.feed_forward import FeedForward
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.submodel import Submodel

Progress = Callable[[], None]


def neuron_importance(
    model: MatFormer, blocks: Tensor, submodel: Submodel, *, progress: Progress = lambda: None
) -> list[Tensor]:
    """Scores of each layer's first neurons, those of `submodel`: [width] float32, one per layer; more is worth more.

    blocks: [N, T + 1] of calibration text. progress: called after each of the N. Raises LtsRayError for no text.
    """
    if len(blocks) == 0:
        raise LtsRayError("there is no calibration text to find the important neurons on")

    def losses() -> Iterator[Tensor]:
        for block in blocks.to(model.weight.device):
            logits = model(block[None, :-1], submodel=submodel)  # [1, T, V]
            yield functional.cross_entropy(logits[0].float(), block[1:])
            progress()

    return neuron_scores(feed_forwards(model), submodel, losses(), count=len(blocks))


def neuron_scores(
    ffns: Sequence[FeedForward], submodel: Submodel, losses: Iterable[Tensor], *, count: int
) -> list[Tensor]:
    """The score by `count` losses, each of one example that `submodel` has run; whatever kind of model has the FFNs."""
    projections = [ffn.down_proj.weight for ffn in ffns]
    scores = [torch.zeros(width, device=projections[0].device) for width in submodel.widths]
    for loss in losses:
        gradients = torch.autograd.grad(loss, projections)
        for score, weight, gradient in zip(scores, projections, gradients, strict=True):
            kept = slice(len(score))
            score.add_((weight.detach()[:, kept] * gradient[:, kept]).sum(0).square(), alpha=1 / count)
    return scores


def reorder_by_importance(model: MatFormer, blocks: Tensor, *, progress: Progress = lambda: None) -> None:
    """Reorder `model`'s neurons in place. blocks: [N, T + 1] of calibration text, gone through once a granularity."""
    for submodel in reversed(list(model.config.trained.values())):
        reorder_by(feed_forwards(model), neuron_importance(model, blocks, submodel, progress=progress))


def reorder_by(ffns: Sequence[FeedForward], scores: Sequence[Tensor]) -> None:
    """Put each layer's first neurons, those that have a score, in its order, in place: the model is what it was."""
    for ffn, score in zip(ffns, scores, strict=True):
        rest = torch.arange(len(score), ffn.width, device=score.device)
        ffn.reorder(torch.cat([score.argsort(descending=True, stable=True), rest]))


def evenly(total: int, count: int) -> Tensor:
    """`count` places of `total` (all, if they are fewer), from the first to the last."""
    return torch.linspace(0, total - 1, min(count, total)).round().long()


def feed_forwards(model: nn.Module) -> list[FeedForward]:
    """Of each layer."""
    return [module for module in model.modules() if isinstance(module, FeedForward)]
