"""Validation loss of a backbone: mean next-token cross-entropy in nats; perplexity is its exponential."""

from __future__ import annotations

import torch
from torch import Tensor

from lts_ray.evaluation.validation_loss import check_blocks
from lts_ray.models.backbones.backbone import Backbone


def backbone_loss(model: Backbone, blocks: Tensor, *, batch_size: int = 8) -> float:
    """Mean loss in nats per token, each block on its own. blocks: [N, T + 1], int64. Raises LtsRayError for no blocks.

    A Transformer-XL starts every block with an empty memory, as in training.
    """
    check_blocks(blocks)
    total = 0.0
    with torch.inference_mode():
        for batch in torch.split(blocks, batch_size):
            total += float(model.loss(batch[:, :-1], batch[:, 1:])) * len(batch)
    return total / len(blocks)
