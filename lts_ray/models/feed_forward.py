"""The nested FFN block (MatFormer, equation 1): the first m neurons of the full block are the block of width m."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.models.extent import Widths
from lts_ray.models.family import LLAMA, Activation, Family
from lts_ray.models.few_rows import linear
from lts_ray.models.staircase import staircase

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}


class FeedForward(nn.Module):
    """gate (where the family has one), up: [width, d_model]; down: [d_model, width]. Names are those of Llama."""

    def __init__(self, d_model: int, width: int, family: Family = LLAMA) -> None:
        super().__init__()
        self.gated, self.biased = family.gated, family.ffn_bias
        self.activation = ACTIVATIONS[family.activation]
        if family.gated:
            self.gate_proj = nn.Linear(d_model, width, bias=family.ffn_bias)
        self.up_proj = nn.Linear(d_model, width, bias=family.ffn_bias)
        self.down_proj = nn.Linear(width, d_model, bias=family.ffn_bias)

    @property
    def width(self) -> int:
        return self.up_proj.out_features

    def activations(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Of neurons start..stop-1: [..., stop - start], for x [..., d_model]."""
        if not self.gated:
            return self.activation(self._project(self.up_proj, x, start, stop))
        gate = self._project(self.gate_proj, x, start, stop)
        return self.activation(gate) * self._project(self.up_proj, x, start, stop)

    def band(self, x: Tensor, start: int, stop: int) -> Tensor:
        """What neurons start..stop-1 add to the output. x: [..., d_model] or a prefix of it, and so is the result.

        The output's bias belongs to the band that starts at 0, so that bands which make up a block have it once.
        """
        d_model = x.shape[-1]
        bias = self.down_proj.bias[:d_model] if self.biased and start == 0 else None
        return linear(self.activations(x, start, stop), self.down_proj.weight[:d_model, start:stop], bias)

    def reorder(self, order: Tensor) -> None:
        """Put neuron order[i] at place i, in place: the full block computes what it did. order: [width], int64."""
        with torch.no_grad():
            for projection in (self.gate_proj, self.up_proj) if self.gated else (self.up_proj,):
                for parameter in projection.parameters():
                    parameter.copy_(parameter[order])
            self.down_proj.weight.copy_(self.down_proj.weight[:, order])

    def _project(self, projection: nn.Linear, x: Tensor, start: int, stop: int) -> Tensor:
        bias = projection.bias[start:stop] if self.biased else None
        return linear(x, projection.weight[start:stop, : x.shape[-1]], bias)

    def forward(self, x: Tensor, widths: Widths) -> Tensor:
        """x: [B, T, d_model] or a prefix of it; widths: one for all rows or one per row. Returns x's shape."""
        if isinstance(widths, int):
            return self.band(x, 0, widths)
        if list(widths) == sorted(widths, reverse=True):
            return staircase(x, widths, self)
        order = sorted(range(len(widths)), key=lambda row: -widths[row])
        places = torch.tensor(order, device=x.device)
        y = staircase(x[places], [widths[row] for row in order], self)
        return torch.empty_like(y).index_copy_(0, places, y)
