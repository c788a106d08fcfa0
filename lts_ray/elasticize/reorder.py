"""Neurons in order of importance: the universal model computes what it did, its submodels are what they can be.

From the widest granularity to the narrowest: which half matters most is asked of the whole model, which half of that
half is asked of the model that has only the first half left, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lts_ray.elasticize.importance import Progress, feed_forwards, neuron_importance
from lts_ray.models.feed_forward import FeedForward
from lts_ray.models.matformer.matformer import MatFormer


def reorder_by_importance(model: MatFormer, blocks: Tensor, *, progress: Progress = lambda: None) -> None:
    """Reorder `model`'s neurons in place. blocks: [N, T + 1] of calibration text, gone through once a granularity."""
    for submodel in reversed(list(model.config.trained.values())):
        reorder_by(feed_forwards(model), neuron_importance(model, blocks, submodel, progress=progress))


def reorder_by(ffns: Sequence[FeedForward], scores: Sequence[Tensor]) -> None:
    """Put each layer's first neurons, those that have a score, in its order, in place: the model is what it was."""
    for ffn, score in zip(ffns, scores, strict=True):
        rest = torch.arange(len(score), ffn.width)
        ffn.reorder(torch.cat([score.argsort(descending=True, stable=True), rest]))
