"""A model small enough to enumerate, and a prompt for it."""

from __future__ import annotations

import torch

from lts_ray.models.config import MatFormerConfig
from lts_ray.models.matformer import MatFormer

PROMPT = [3, 1, 4, 1, 5]


def make_model(seed: int, *, vocab_size: int = 11, widths: tuple[int, ...] = (16, 24)) -> MatFormer:
    """In float64, so that forwards of different length do not round an argmax apart; its submodels often agree."""
    config = MatFormerConfig(vocab_size=vocab_size, d_model=16, n_head=2, n_kv_head=1, widths=widths, context_length=40)
    model = MatFormer(config).eval()
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    return model.double()
