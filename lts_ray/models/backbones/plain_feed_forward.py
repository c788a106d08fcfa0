"""The feed-forward block of the searched backbones: two matrices with biases; a candidate has one width per layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class PlainFeedForward(nn.Module):
    def __init__(self, d_model: int, d_inner: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_inner)
        self.down = nn.Linear(d_inner, d_model)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d_model], and so is the result."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y
