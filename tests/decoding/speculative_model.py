"""A model small enough to enumerate, and a prompt for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.models.matformer.matformer_config import MatFormerConfig

PROMPT = [3, 1, 4, 1, 5]
NO_SHARES: Mapping[str, Mapping[str, float]] = {}


def make_model(
    seed: int,
    *,
    vocab_size: int = 11,
    widths: tuple[int, ...] = (16, 24),
    shares: Mapping[str, Mapping[str, float]] = NO_SHARES,
) -> MatFormer:
    """In float64, so that forwards of different length do not round an argmax apart; its submodels often agree.

    shares: nested_heads and nested_d_model, where they are to nest.
    """
    shape: dict[str, Any] = {"vocab_size": vocab_size, "d_model": 16, "n_head": 2, "n_kv_head": 2 if shares else 1}
    config = MatFormerConfig(**shape, widths=widths, context_length=40, **shares)
    model = MatFormer(config).eval()
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    return model.double()
