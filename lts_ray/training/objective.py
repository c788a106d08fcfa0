"""What training minimises: the MatFormer joint loss (MatFormer, equation 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.errors import LtsRayError
from lts_ray.models.matformer import MatFormer


def normalized(weights: Mapping[str, float]) -> dict[str, float]:
    """The λ of each granularity, scaled to sum to 1: the paper's is a weighted average."""
    total = sum(weights.values())
    if any(value < 0 for value in weights.values()) or total <= 0:
        raise LtsRayError(f"loss weights must be non-negative and not all zero; got {dict(weights)}")
    return {name: value / total for name, value in weights.items()}


def joint_loss(model: MatFormer, blocks: Tensor, weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ λ_i · loss of granularity i, and each granularity's own loss (nats, detached).

    blocks: [B, T + 1]. All granularities run as rows of one mixed-width batch, widest first, so that each band of FFN
    weights is read, and its gradient formed, once for all of them.
    """
    names = [name for name in reversed(list(model.config.trained)) if weights.get(name, 0.0) > 0]
    rows = blocks.shape[0]
    logits = model.logits(model.fan_out(blocks[:, :-1], [model.config.trained[name] for name in names]))  # [G·B, T, V]
    targets = blocks[:, 1:].flatten()
    losses = {
        name: functional.cross_entropy(part.flatten(0, 1).float(), targets)
        for name, part in zip(names, torch.split(logits, rows), strict=True)
    }
    share = normalized({name: weights[name] for name in names})
    total = sum((share[name] * loss for name, loss in losses.items()), start=logits.new_zeros(()).float())
    return total, {name: loss.detach() for name, loss in losses.items()}
