"""The nested SwiGLU block (MatFormer, equation 1): the first m neurons of the full block are the block of width m."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

Widths = int | tuple[int, ...]
"""One layer's FFN width: one number for all rows, or one per row."""


class FeedForward(nn.Module):
    """gate, up: [width, d_model]; down: [d_model, width]. Names are those of transformers' Llama."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, width, bias=False)
        self.up_proj = nn.Linear(d_model, width, bias=False)
        self.down_proj = nn.Linear(width, d_model, bias=False)

    def band(self, x: Tensor, start: int, stop: int) -> Tensor:
        """What neurons start..stop-1 add to the output. x: [..., d_model], and so is the result."""
        gate = functional.linear(x, self.gate_proj.weight[start:stop])
        up = functional.linear(x, self.up_proj.weight[start:stop])
        return functional.linear(functional.silu(gate) * up, self.down_proj.weight[:, start:stop])

    def forward(self, x: Tensor, widths: Widths) -> Tensor:
        """x: [B, T, d_model]; widths: one for all rows or one per row. Returns x's shape."""
        if isinstance(widths, int):
            return self.band(x, 0, widths)
        if list(widths) == sorted(widths, reverse=True):
            return staircase(x, widths, self)
        order = sorted(range(len(widths)), key=lambda row: -widths[row])
        places = torch.tensor(order, device=x.device)
        y = staircase(x[places], [widths[row] for row in order], self)
        return torch.empty_like(y).index_copy_(0, places, y)


def staircase(x: Tensor, widths: Sequence[int], ffn: FeedForward) -> Tensor:
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
