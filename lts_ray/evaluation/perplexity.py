"""Validation loss of a submodel: mean next-token cross-entropy in nats; perplexity is its exponential."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer import MatFormer


def validation_loss(model: MatFormer, blocks: Tensor, submodel: Submodel, *, batch_size: int = 8) -> float:
    """Mean loss in nats per token. blocks: [N, T + 1], int64. Raises LtsRayError for no blocks."""
    if blocks.shape[0] == 0:
        raise LtsRayError("there is no text to evaluate on")
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in torch.split(blocks, batch_size):
            logits = model(batch[:, :-1], submodel=submodel)  # [B, T, V]
            targets = batch[:, 1:].flatten()
            total += float(functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum"))
            count += targets.numel()
    return total / count
