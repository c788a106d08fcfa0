"""Alternating updates: several versions of a token's state, the streams, of which a layer computes only one.

A layer first predicts all streams from all of them, computes the active one, and then corrects each by some share of
what the computation has changed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lts_ray.models.few_rows import linear
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig

SMALLEST_POWER = 1e-5
"""Below it, a stream's power is taken as this."""


class AltUp(nn.Module):
    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__()
        d_model, n_stream = config.d_model, config.n_stream
        self.d_model, self.n_stream, self.active = d_model, n_stream, config.active_stream
        self.limit = config.coefficient_limit
        self.correct_output_scale = nn.Parameter(torch.zeros(d_model))
        self.correction_coefs = nn.Linear(n_stream, n_stream, bias=False)
        self.prediction_coefs = nn.Linear(n_stream, n_stream**2, bias=False)
        self.modality_router = nn.Linear(d_model, n_stream, bias=False)
        self.router_norm = nn.RMSNorm(d_model, eps=config.rms_norm_eps)

    def predict(self, streams: Tensor) -> Tensor:
        """streams: [B, T, n_stream, d_model], and so is the result."""
        mix = linear(self._route(streams[:, :, self.active]), self._limited(self.prediction_coefs.weight))
        return mix.view(*mix.shape[:2], self.n_stream, self.n_stream) @ streams + streams

    def correct(self, predictions: Tensor, computed: Tensor) -> Tensor:
        """predictions: [B, T, n_stream, d_model], and so is the result. computed: the active one, [B, T, d_model]."""
        shares = linear(self._route(computed), self._limited(self.correction_coefs.weight)) + 1  # [B, T, n_stream]
        news = computed - predictions[:, :, self.active]
        return news[:, :, None] * shares[..., None] + predictions

    def _route(self, x: Tensor) -> Tensor:
        """[B, T, d_model] to [B, T, n_stream], in (-1, 1)."""
        routed = linear(self.router_norm(x) * (1 / self.d_model), self.modality_router.weight)
        return torch.tanh(routed.float()).type_as(x)

    def _limited(self, weight: Tensor) -> Tensor:
        return weight.clamp(-self.limit, self.limit) if self.training and self.limit is not None else weight


def spread_streams(x: Tensor, projections: nn.ModuleList) -> Tensor:
    """The streams that a token starts with, all as strong as x [B, T, d_model]: [B, T, n_stream, d_model]."""
    strength = _power(x).sqrt()
    others = [_at_strength(linear(x, projection.weight), strength) for projection in _linears(projections)]
    return torch.stack([x, *others], dim=2)


def merge_streams(streams: Tensor, projections: nn.ModuleList) -> Tensor:
    """The mean of the streams [B, T, n_stream, d_model], each brought back and as strong as the first."""
    first, *others = streams.unbind(2)
    strength = _power(first).sqrt()
    back = [
        _at_strength(linear(x, projection.weight), strength)
        for x, projection in zip(others, _linears(projections), strict=True)
    ]
    return torch.stack([first, *back]).mean(0)


def _power(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True)


def _at_strength(x: Tensor, strength: Tensor) -> Tensor:
    return x * strength / _power(x).clamp(min=SMALLEST_POWER).sqrt()


def _linears(projections: nn.ModuleList) -> list[nn.Linear]:
    return [projection for projection in projections if isinstance(projection, nn.Linear)]
