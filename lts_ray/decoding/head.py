"""The output matrix of a model, for the few hidden states that a step of speculative decoding has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lts_ray.models.matformer import MatFormer

LARGE = 2**22
"""Numbers in an output matrix that no cache near a core holds."""


def output_matrix(model: MatFormer) -> Tensor:
    """[vocab_size, d_model], detached; it is the embedding's where the two are tied."""
    weight = model.embed_tokens.weight if model.tied else model.lm_head.weight
    return weight.detach()


def logits_of_few(model: MatFormer, hidden: Tensor) -> Tensor:
    """`model.logits` for hidden states [n, d_model], n small: [n, vocab_size].

    On a CPU the product with a large matrix is taken the other way round: as `linear` takes it, 3 states of width 576
    and 49,152 tokens cost 3.4 times one, and this way about the same as one. With a small matrix it does not pay.
    """
    head = output_matrix(model)
    if len(hidden) == 1 or head.numel() < LARGE or head.device.type != "cpu":
        return functional.linear(hidden, head)
    return torch.mm(head, hidden.t()).t()
