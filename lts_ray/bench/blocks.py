"""Held-out text in the length that a bench asks for: a long context leaves few blocks, and many places are wanted."""

from __future__ import annotations

from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.training.data import blocks_of


def recut(blocks: Tensor, length: int) -> Tensor:
    """Consecutive blocks [N, T + 1], of which each begins with the one before it ends, as blocks [M, length + 1].

    Raises LtsRayError where `length` tokens are longer than the blocks: what is cut again must have been one text.
    """
    if length >= blocks.shape[1]:
        raise LtsRayError(f"{length} tokens are more than the model's context and the text have: {blocks.shape[1] - 1}")
    return blocks_of(blocks[:, :-1].flatten().numpy(), length=length)
