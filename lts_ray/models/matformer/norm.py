"""Norms over a prefix: of a row that has d of the D dimensions, over its d."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.models.extent import Widths, cut


class RMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor, widths: Widths = 0) -> Tensor:
        """x: [B, T, D], 0 past each row's own width; widths: 0: D, for all rows. Returns x's shape, 0 there as well."""
        weight = self.weight[: x.shape[-1]]
        assert self.eps is not None
        if isinstance(widths, int):
            return functional.rms_norm(x, weight.shape, weight, self.eps)
        own = torch.tensor(widths, dtype=torch.float32, device=x.device)[:, None, None]
        mean = x.float().square().sum(-1, keepdim=True) / own  # [B, T, 1]
        return (x.float() * torch.rsqrt(mean + self.eps)).to(x.dtype) * weight


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor, widths: Widths = 0) -> Tensor:
        """As of RMSNorm."""
        weight, bias = self.weight[: x.shape[-1]], self.bias[: x.shape[-1]]
        if isinstance(widths, int):
            return functional.layer_norm(x, weight.shape, weight, bias, self.eps)
        own = torch.tensor(widths, dtype=torch.float32, device=x.device)[:, None, None]
        centred = cut(x.float() - x.float().sum(-1, keepdim=True) / own, widths)
        variance = centred.square().sum(-1, keepdim=True) / own  # [B, T, 1]
        return cut((centred * torch.rsqrt(variance + self.eps)).to(x.dtype) * weight + bias, widths)
