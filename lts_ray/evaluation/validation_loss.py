"""Validation loss of a submodel or a backbone: mean next-token cross-entropy in nats; perplexity is its exponential.

Logits are the largest thing in an evaluation, so they are made for a part of the tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.device import CPU
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel

LOGITS_AT_ONCE = 2**22
"""16 MiB in float32: 2,048 tokens of a vocabulary of 2,048, 85 of one of 49,152."""
LOGITS_ON_GPU = 2**27
"""The same on a GPU, whose kernels are to be few and large: 512 MiB."""


def validation_loss(model: UniversalModel, blocks: Tensor, submodel: Submodel, *, batch_size: int = 8) -> float:
    """Mean loss in nats per token. blocks: [N, T + 1], int64. Raises LtsRayError for no blocks."""
    check_blocks(blocks)
    device = next(model.parameters()).device
    with torch.inference_mode():
        sums = [summed_loss(model, batch.to(device), submodel) for batch in torch.split(blocks, batch_size)]
        return float(torch.stack(sums).sum()) / blocks[:, 1:].numel()


def summed_loss(model: UniversalModel, tokens: Tensor, submodel: Submodel) -> Tensor:
    """Over the positions of tokens [B, T + 1]: a float64 scalar where they are, which nothing has waited for."""
    hidden = model.hidden(tokens[:, :-1], submodel=submodel).flatten(0, 1)  # [B·T, d_model]
    targets, sums = tokens[:, 1:].flatten(), list[Tensor]()
    for part in token_parts(len(targets), model.config.vocab_size, targets.device):
        logits = model.logits(hidden[part]).float()
        sums.append(functional.cross_entropy(logits, targets[part], reduction="sum").double())
    return torch.stack(sums).sum()


def backbone_loss(model: Backbone, blocks: Tensor, *, batch_size: int = 8) -> float:
    """Mean loss in nats per token, each block on its own. blocks: [N, T + 1], int64. Raises LtsRayError for no blocks.

    A Transformer-XL starts every block with an empty memory, as in training.
    """
    check_blocks(blocks)
    with torch.inference_mode():
        parts = torch.split(blocks, batch_size)
        losses = [model.loss(batch[:, :-1], batch[:, 1:]).double() * len(batch) for batch in parts]
        return float(torch.stack(losses).sum()) / len(blocks)


def token_parts(tokens: int, vocab_size: int, device: torch.device = CPU) -> Iterator[slice]:
    """Slices that cover `tokens`, each small enough for its logits."""
    step = max(1, (LOGITS_ON_GPU if device.type == "cuda" else LOGITS_AT_ONCE) // vocab_size)
    return (slice(start, start + step) for start in range(0, tokens, step))


def check_blocks(blocks: Tensor) -> None:
    if blocks.shape[0] == 0:
        raise LtsRayError("there is no text to evaluate on")
