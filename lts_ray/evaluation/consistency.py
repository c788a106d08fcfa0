"""How consistent submodels are with the universal model (MatFormer, section 2 and appendix D.1).

Both read the same text, so at every position they have the same prefix: do they name the same next token, and how far
is the smaller one's distribution from the universal one's? One pass over the text does it for any number of submodels:
the universal logits are made once, for a part of the tokens at a time, and each submodel's are held against them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.evaluation.validation_loss import check_blocks, token_parts
from lts_ray.models.universal_model import UniversalModel
from lts_ray.submodel import Submodel

HIDDEN_AT_ONCE = 2**25
"""Numbers in the last hidden states of all submodels for one batch: 128 MiB in float32."""


@dataclass(frozen=True)
class Predictor:
    """A model at one width. Two models that are compared have one tokenizer."""

    model: UniversalModel
    submodel: Submodel

    def hidden(self, tokens: Tensor) -> Tensor:
        """[B, T] to [B·T, d_model]."""
        return self.model.hidden(tokens, submodel=self.submodel).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Of one submodel with a reference on one text."""

    loss: float
    """The submodel's own, nats per token."""
    agreement: float
    """Share of the positions at which both find the same token most likely."""
    kl: float
    """Mean KL(reference ‖ submodel) in nats: what is lost by coding the reference's tokens with the submodel."""


def consistency(
    reference: Predictor,
    others: Sequence[Predictor],
    blocks: Tensor,
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Consistency]:
    """Of each of `others`, in their order; the reference may be among them. blocks: [N, T + 1], int64.

    progress: told how many blocks are done, and of how many. Raises LtsRayError for no blocks.
    """
    check_blocks(blocks)
    # every predictor is run once, however often it is asked for; the reference is at place 0
    unique = list(dict.fromkeys((reference, *others)))
    device = next(reference.model.parameters()).device
    sums = torch.zeros(len(unique), 3, dtype=torch.float64, device=device)  # loss, agreeing positions, KL
    with torch.inference_mode():
        done = 0
        for batch in torch.split(blocks, _rows(unique, blocks, batch_size)):
            sums += batch_sums(unique, batch.to(device))
            done += len(batch)
            progress(done, len(blocks))
    means = (sums / blocks[:, 1:].numel()).tolist()
    of_each = {
        predictor: Consistency(loss=loss, agreement=agreement, kl=kl)
        for predictor, (loss, agreement, kl) in zip(unique, means, strict=True)
    }
    return [of_each[predictor] for predictor in others]


def _rows(predictors: Sequence[Predictor], blocks: Tensor, batch_size: int) -> int:
    """Blocks in a batch: fewer where many hidden states have to be kept for it."""
    one = blocks.shape[1] * sum(predictor.model.config.d_model for predictor in predictors)
    return max(1, min(batch_size, HIDDEN_AT_ONCE // one))


def batch_sums(predictors: Sequence[Predictor], tokens: Tensor) -> Tensor:
    """Summed over the positions of one batch, for each predictor: [P, 3], where the tokens are, which nothing has
    waited for. tokens: [B, T + 1]; the first predictor is what the others are compared with."""
    sums = tokens.new_zeros(len(predictors), 3, dtype=torch.float64)
    targets = tokens[:, 1:].flatten()
    hidden = [predictor.hidden(tokens[:, :-1]) for predictor in predictors]
    for part in token_parts(len(targets), predictors[0].model.config.vocab_size, targets.device):
        reference = _log_probabilities(predictors[0], hidden[0][part])
        probabilities, choices = reference.exp(), reference.argmax(dim=-1)
        for place, predictor in enumerate(predictors):
            own = reference if place == 0 else _log_probabilities(predictor, hidden[place][part])
            sums[place, 0] += functional.nll_loss(own, targets[part], reduction="sum")
            sums[place, 1] += (own.argmax(dim=-1) == choices).sum()
            # in place: at a large vocabulary one more copy is one too many
            if place > 0:
                sums[place, 2] -= own.sub_(reference).mul_(probabilities).sum()
    return sums


def _log_probabilities(predictor: Predictor, hidden: Tensor) -> Tensor:
    """[n, d_model] to [n, vocab_size], float32."""
    return functional.log_softmax(predictor.model.logits(hidden).float(), dim=-1)
