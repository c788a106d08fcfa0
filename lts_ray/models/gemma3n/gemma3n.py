"""Gemma 3n as a universal model: any width of any layer runs, and layers are left out, from one set of weights.

Parameter names are those of transformers' Gemma3nTextModel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lts_ray.models.attend import Attend
from lts_ray.models.extent import Extent
from lts_ray.models.few_rows import linear
from lts_ray.models.gemma3n.altup import merge_streams, spread_streams
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.models.gemma3n.gemma3n_layer import Gemma3nLayer
from lts_ray.models.gemma3n.shared_attention import rotary_of
from lts_ray.models.universal_model import UniversalModel


class Gemma3n(UniversalModel):
    """The decoder. Of what it can hear and see besides, only the text is here."""

    config: Gemma3nConfig

    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__()
        self.config = config
        d_model, d_all = config.d_model, config.n_layer * config.d_per_layer
        self.embed_tokens = nn.Embedding(config.vocab_size, d_model)
        self.layers = nn.ModuleList(Gemma3nLayer(config, layer) for layer in range(config.n_layer))
        self.norm = nn.RMSNorm(d_model, eps=config.rms_norm_eps)
        self.embed_tokens_per_layer = nn.Embedding(config.per_layer_vocab_size, d_all)
        self.per_layer_model_projection = nn.Linear(d_model, d_all, bias=False)
        self.per_layer_projection_norm = nn.RMSNorm(config.d_per_layer, eps=config.rms_norm_eps)
        others = range(1, config.n_stream)
        self.altup_projections = nn.ModuleList(nn.Linear(d_model, d_model, bias=False) for _ in others)
        self.altup_unembed_projections = nn.ModuleList(nn.Linear(d_model, d_model, bias=False) for _ in others)

    @property
    def weight(self) -> Tensor:
        return self.embed_tokens.weight

    def run(self, tokens: Tensor, positions: Tensor, extent: Extent, attend: Attend) -> Tensor:
        """As of the base class: [B, T, d_model]."""
        x = _scaled(self.embed_tokens(tokens), math.sqrt(self.config.d_model))
        own = self._own_inputs(tokens, x)
        rotary = rotary_of(positions, self.config, x.dtype)
        streams = spread_streams(x, self.altup_projections)
        for layer, (block, widths) in enumerate(zip(self.layers, extent.widths, strict=True)):
            streams = block(streams, own[:, :, layer], rotary, widths=widths, attend=attend)
        normalised: Tensor = self.norm(merge_streams(streams, self.altup_unembed_projections))
        return normalised

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d_model] to [..., vocab_size], within the cap."""
        logits, cap = linear(hidden, self.embed_tokens.weight), self.config.logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _own_inputs(self, tokens: Tensor, x: Tensor) -> Tensor:
        """What each layer is given of its own, from its table and from the embedding: [B, T, n_layer, d_per_layer].

        tokens: [B, T]; x: [B, T, d_model]. Tokens past the table, those of other senses, have its first entry.
        """
        config = self.config
        each_layer = (*tokens.shape, config.n_layer, config.d_per_layer)
        in_table = torch.where(tokens < config.per_layer_vocab_size, tokens, 0)
        looked_up = _scaled(self.embed_tokens_per_layer(in_table), math.sqrt(config.d_per_layer))
        projected = _scaled(linear(x, self.per_layer_model_projection.weight), 1 / math.sqrt(config.d_model))
        projected = self.per_layer_projection_norm(projected.view(each_layer))
        return _scaled(projected + looked_up.view(each_layer), 1 / math.sqrt(2))


def _scaled(x: Tensor, factor: float) -> Tensor:
    """The factor is rounded to x's dtype first, as the published model's is."""
    return x * float(torch.tensor(factor, dtype=x.dtype))
