"""The nested SwiGLU block (MatFormer, equation 1): the first m neurons of the full block are the block of width m."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.models.staircase import staircase

Widths = int | tuple[int, ...]
"""One layer's FFN width: one number for all rows, or one per row."""


class FeedForward(nn.Module):
    """gate, up: [width, d_model]; down: [d_model, width]. Names are those of transformers' Llama."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, width, bias=False)
        self.up_proj = nn.Linear(d_model, width, bias=False)
        self.down_proj = nn.Linear(width, d_model, bias=False)

    @property
    def width(self) -> int:
        return self.gate_proj.out_features

    def activations(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Of neurons start..stop-1: [..., stop - start], for x [..., d_model]."""
        gate = functional.linear(x, self.gate_proj.weight[start:stop])
        up = functional.linear(x, self.up_proj.weight[start:stop])
        return functional.silu(gate) * up

    def band(self, x: Tensor, start: int, stop: int) -> Tensor:
        """What neurons start..stop-1 add to the output. x: [..., d_model], and so is the result."""
        return functional.linear(self.activations(x, start, stop), self.down_proj.weight[:, start:stop])

    def reorder(self, order: Tensor) -> None:
        """Put neuron order[i] at place i, in place: the full block computes what it did. order: [width], int64."""
        with torch.no_grad():
            self.gate_proj.weight.copy_(self.gate_proj.weight[order])
            self.up_proj.weight.copy_(self.up_proj.weight[order])
            self.down_proj.weight.copy_(self.down_proj.weight[:, order])

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
