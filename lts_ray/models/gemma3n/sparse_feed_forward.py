"""The FFN whose gates are cut off below a quantile, estimated from their mean and deviation as of a normal.

The quantile is of the gates that a row has: of a prefix for a narrower row. So neurons do not act alone here: the bands
of a staircase are summed only after each row's own cut.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.models.extent import Widths, cut
from lts_ray.models.feed_forward import ACTIVATIONS
from lts_ray.models.few_rows import linear


class SparseFeedForward(nn.Module):
    """gate, up: [width, d_model]; down: [d_model, width]."""

    def __init__(self, d_model: int, width: int, sparsity: float) -> None:
        """sparsity: the share of gates that is cut off, in (0, 1)."""
        super().__init__()
        quantile = torch.erfinv(torch.tensor(2 * sparsity - 1, device="cpu")) * math.sqrt(2)
        self.deviations = float(quantile)
        self.activation = ACTIVATIONS["gelu_tanh"]
        self.gate_proj = nn.Linear(d_model, width, bias=False)
        self.up_proj = nn.Linear(d_model, width, bias=False)
        self.down_proj = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor, widths: Widths) -> Tensor:
        """x: [B, T, d_model]; widths: one for all rows or one per row. Returns x's shape."""
        if isinstance(widths, int):
            gate = linear(x, self.gate_proj.weight[:widths])
            mean = gate.mean(-1, keepdim=True)
            deviation = gate.std(-1, keepdim=True, unbiased=False)
            hidden = self._opened(gate, mean, deviation) * linear(x, self.up_proj.weight[:widths])
            return linear(hidden, self.down_proj.weight[:, :widths])
        order = sorted(range(len(widths)), key=lambda row: -widths[row])
        places = torch.tensor(order, device=x.device)
        y = self._staircase(x[places], tuple(widths[row] for row in order))
        return torch.empty_like(y).index_copy(0, places, y)

    def _staircase(self, x: Tensor, widths: tuple[int, ...]) -> Tensor:
        """widths: non-increasing. Each weight is read once."""
        bands = [
            (sum(width >= stop for width in widths), slice(start, stop))
            for start, stop in pairwise([0, *sorted(set(widths))])
        ]
        gates = [_padded(linear(x[:rows], self.gate_proj.weight[band]), len(x)) for rows, band in bands]
        gate = torch.cat(gates, dim=-1)  # 0 past each row's width
        own = torch.tensor(widths, dtype=torch.float32, device=x.device)[:, None, None]
        mean = gate.float().sum(-1, keepdim=True) / own
        variance = cut(gate.float() - mean, widths).square().sum(-1, keepdim=True) / own
        opened = self._opened(gate, mean.to(x.dtype), variance.sqrt().to(x.dtype))
        out: Tensor | None = None
        for rows, band in bands:
            hidden = opened[:rows, :, band] * linear(x[:rows], self.up_proj.weight[band])
            added = _padded(linear(hidden, self.down_proj.weight[:, band]), len(x))
            out = added if out is None else out + added
        assert out is not None
        return out

    def _opened(self, gate: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """What is left of the gates [B, T, m] above mean and deviation [B, T, 1]."""
        # Rounded first, as where the number of deviations is a tensor.
        deviations = float(torch.tensor(self.deviations, dtype=gate.dtype))
        return self.activation(functional.relu(gate - (mean + deviation * deviations)))


def _padded(x: Tensor, rows: int) -> Tensor:
    """With zero rows behind: [rows, T, D]."""
    return functional.pad(x, (0, 0, 0, 0, 0, rows - len(x))) if len(x) < rows else x
