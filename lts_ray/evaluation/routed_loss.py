"""How good confidence routing is on a text: its loss, and how consistent it is with the universal model alone.

Text is read token by token, as decoding would, because which model reads a place decides the keys and values that all
later places see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.decoding.confidence import Confidence, teacher_forced
from lts_ray.errors import LtsRayError
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class RoutedLoss:
    """Over `tokens` routed tokens: all of a text's but each block's first, which has nothing before it.

    loss: nats per token. agreement: share of places at which routing and the universal model alone find the same token
    most likely. kl: mean KL(universal ‖ routed), nats. universal_share: of places that the large submodel read again.
    """

    loss: float
    agreement: float
    kl: float
    universal_share: float
    tokens: int


def routed_loss(
    model: UniversalModel,
    blocks: Tensor,
    *,
    small: Submodel,
    large: Submodel,
    confidence: Confidence,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RoutedLoss:
    """blocks: [N, T + 1], int64, T at least 2. progress: told how many blocks are done, and of how many.

    Raises LtsRayError for no text to route.
    """
    if blocks.shape[0] == 0 or blocks.shape[1] < 3:
        raise LtsRayError("there is no text to evaluate on: give at least one block of two tokens and a target")
    sums = torch.zeros(4, dtype=torch.float64)  # loss, agreeing places, KL, unsure places
    with torch.inference_mode():
        done = 0
        for batch in torch.split(blocks, batch_size):
            tokens = batch.to(model.weight.device)
            alone = model.hidden(tokens[:, :-1], submodel=large)  # [B, T, d_model]
            routed = teacher_forced(model, tokens[:, :-1], small=small, large=large, confidence=confidence)
            for place, (logits, _, unsure) in enumerate(routed, start=1):
                reference = functional.log_softmax(model.logits(alone[:, place]).float(), dim=-1)  # [B, vocab_size]
                found = functional.log_softmax(logits.float(), dim=-1)
                sums[0] += float(functional.nll_loss(found, tokens[:, place + 1], reduction="sum"))
                sums[1] += int((found.argmax(-1) == reference.argmax(-1)).sum())
                sums[2] += float((reference.exp() * (reference - found)).sum())
                sums[3] += int(unsure.sum())
            done += len(batch)
            progress(done, len(blocks))
    count = blocks[:, 2:].numel()
    loss, agreement, kl, share = (sums / count).tolist()
    return RoutedLoss(loss=loss, agreement=agreement, kl=kl, universal_share=share, tokens=count)
