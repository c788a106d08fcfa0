"""Attention with normalised queries, keys and values. A layer looks at its own keys, or at an earlier layer's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lts_ray.models.attend import Attend, Look
from lts_ray.models.few_rows import linear
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig, LayerType
from lts_ray.models.matformer.grouped_attention import rotate

Rotary = Mapping[LayerType, Tensor]
"""cos and sin of the tokens' angles, [2, B, 1, T, d_head], for each type of layer."""


def rotary_of(positions: Tensor, config: Gemma3nConfig, dtype: torch.dtype) -> Rotary:
    """positions: [B, T]. The angles are computed in float32, whatever the dtype."""
    return {
        "full_attention": _angles(positions, config.rope_theta, config.d_head, dtype),
        "sliding_attention": _angles(positions, config.local_rope_theta, config.d_head, dtype),
    }


def _angles(positions: Tensor, theta: float, d_head: int, dtype: torch.dtype) -> Tensor:
    exponents = torch.arange(0, d_head, 2, dtype=torch.float32, device=positions.device) / d_head
    angles = positions[:, None, :, None].float() * theta**-exponents  # [B, 1, T, d_head / 2]
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()]).to(dtype)


class Gemma3nAttention(nn.Module):
    def __init__(self, config: Gemma3nConfig, layer: int) -> None:
        super().__init__()
        d_model, d_head, eps = config.d_model, config.d_head, config.rms_norm_eps
        self.d_head, self.layer_type = d_head, config.layer_types[layer]
        window = config.window if self.layer_type == "sliding_attention" else None
        self.look = Look(config.n_head // config.n_kv_head, window, scale=1.0)
        self.key_layer = config.key_layer(layer)
        self.has_keys = self.key_layer == layer
        self.q_proj = nn.Linear(d_model, config.n_head * d_head, bias=False)
        self.q_norm = nn.RMSNorm(d_head, eps=eps)
        if self.has_keys:
            self.k_proj = nn.Linear(d_model, config.n_kv_head * d_head, bias=False)
            self.v_proj = nn.Linear(d_model, config.n_kv_head * d_head, bias=False)
            self.k_norm = nn.RMSNorm(d_head, eps=eps)
            self.v_norm = nn.RMSNorm(d_head, eps=eps, elementwise_affine=False)
        self.o_proj = nn.Linear(config.n_head * d_head, d_model, bias=False)

    def forward(self, x: Tensor, rotary: Rotary, *, attend: Attend) -> Tensor:
        """x: [B, T, d_model]. Returns x's shape."""
        q = rotate(self.q_norm(self._heads(x, self.q_proj)), rotary[self.layer_type])
        k, v = self._keys(x, rotary) if self.has_keys else (None, None)
        y = attend(self.key_layer, q, k, v, self.look)
        return linear(y.transpose(1, 2).flatten(2), self.o_proj.weight)

    def remember(self, x: Tensor, rotary: Rotary, *, attend: Attend) -> None:
        """Leave keys and values for later passes, without a question of its own: only of a layer that has them."""
        attend.remember(self.key_layer, *self._keys(x, rotary))

    def _keys(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        k = rotate(self.k_norm(self._heads(x, self.k_proj)), rotary[self.layer_type])
        return k, self.v_norm(self._heads(x, self.v_proj))

    def _heads(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """x [B, T, d_model] to [B, heads, T, d_head]."""
        return linear(x, projection.weight).view(*x.shape[:2], -1, self.d_head).transpose(1, 2)
