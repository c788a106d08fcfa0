"""A layer whose norms come after its sublayers, as those of BERT, OPT and Transformer-XL do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lts_ray.models.backbones.plain_feed_forward import PlainFeedForward


class PostNormBlock(nn.Module):
    """dropout: on what each sublayer adds, while training."""

    def __init__(
        self,
        attention: nn.Module,
        d_model: int,
        d_inner: int,
        activation: Callable[[Tensor], Tensor],
        *,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(d_model, eps=epsilon)
        self.feed_forward = PlainFeedForward(d_model, d_inner, activation)
        self.feed_forward_norm = nn.LayerNorm(d_model, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *seen: Any, **past: Any) -> Tensor:
        """x: [B, T, d_model], and so is the result. seen, past: what the attention takes beside x."""
        x = self.attention_norm(x + self.dropout(self.attention(x, *seen, **past)))
        normed: Tensor = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return normed
