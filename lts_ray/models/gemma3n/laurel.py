"""LAuReL: a learned residual of low rank, which runs beside attention."""

from __future__ import annotations

from torch import Tensor, nn

from lts_ray.models.few_rows import linear
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig


class Laurel(nn.Module):
    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__()
        self.linear_left = nn.Linear(config.d_model, config.d_laurel, bias=False)
        self.linear_right = nn.Linear(config.d_laurel, config.d_model, bias=False)
        self.post_laurel_norm = nn.RMSNorm(config.d_model, eps=config.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d_model], and so is the result."""
        low = linear(x, self.linear_left.weight)
        normalised: Tensor = self.post_laurel_norm(linear(low, self.linear_right.weight))
        return x + normalised
