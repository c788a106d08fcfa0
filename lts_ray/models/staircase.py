"""Rows of different FFN width in one pass: what lets requests, or granularities in training, share a step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor


class Banded(Protocol):
    def band(self, x: Tensor, start: int, stop: int) -> Tensor: ...


def staircase(x: Tensor, widths: Sequence[int], ffn: Banded) -> Tensor:
    """Rows of different FFN width in one pass; each weight is read once.

    x: [B, T, d_model]. widths: neurons per row, non-increasing. Returns x's shape.
    Exact because every neuron acts alone: a row of width m is the sum of the bands below m. The bands go from the
    narrowest, which all rows have, to the widest, which only the first rows have.
    """
    steps = sorted(set(widths))
    out = ffn.band(x, 0, steps[0])
    for below, width in pairwise(steps):
        rows = sum(w >= width for w in widths)
        out[:rows] += ffn.band(x[:rows], below, width)
    return out
