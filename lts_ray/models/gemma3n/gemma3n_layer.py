"""One layer. A row of width 0 passes it by: its streams stay what they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lts_ray.models.attend import Attend
from lts_ray.models.extent import Widths
from lts_ray.models.family import Family
from lts_ray.models.feed_forward import ACTIVATIONS, FeedForward
from lts_ray.models.few_rows import linear
from lts_ray.models.gemma3n.altup import AltUp
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.models.gemma3n.laurel import Laurel
from lts_ray.models.gemma3n.shared_attention import Gemma3nAttention, Rotary
from lts_ray.models.gemma3n.sparse_feed_forward import SparseFeedForward

DENSE = Family(name="gemma3n_text", activation="gelu_tanh", qk_norm=True)


class Gemma3nLayer(nn.Module):
    def __init__(self, config: Gemma3nConfig, layer: int) -> None:
        super().__init__()
        d_model, width, sparsity = config.d_model, config.widths[layer], config.sparsity[layer]
        self.activation, self.scales_output = ACTIVATIONS[DENSE.activation], config.scales_output
        self.active = config.active_stream
        self.altup = AltUp(config)
        self.laurel = Laurel(config)
        self.self_attn = Gemma3nAttention(config, layer)
        self.mlp = SparseFeedForward(d_model, width, sparsity) if sparsity else FeedForward(d_model, width, DENSE)
        self.input_layernorm = nn.RMSNorm(d_model, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(d_model, eps=config.rms_norm_eps)
        self.pre_feedforward_layernorm = nn.RMSNorm(d_model, eps=config.rms_norm_eps)
        self.post_feedforward_layernorm = nn.RMSNorm(d_model, eps=config.rms_norm_eps)
        self.per_layer_input_gate = nn.Linear(d_model, config.d_per_layer, bias=False)
        self.per_layer_projection = nn.Linear(config.d_per_layer, d_model, bias=False)
        self.post_per_layer_input_norm = nn.RMSNorm(d_model, eps=config.rms_norm_eps)

    def forward(self, streams: Tensor, own: Tensor, rotary: Rotary, *, widths: Widths, attend: Attend) -> Tensor:
        """streams: [B, T, n_stream, d_model], and so is the result. own: the layer's embeddings, [B, T, d_per_layer].

        Keys of rows that pass the layer by are remembered all the same: a later token of theirs may be of a wider
        submodel, which looks at them.
        """
        if widths == 0:
            if attend.remembers and self.self_attn.has_keys:
                active = self.altup.predict(streams)[:, :, self.active]
                self.self_attn.remember(self.input_layernorm(active), rotary, attend=attend)
            return streams
        predictions = self.altup.predict(streams)
        x = self.input_layernorm(predictions[:, :, self.active])
        attended = self.post_attention_layernorm(self.self_attn(x, rotary, attend=attend))
        if isinstance(widths, int) or all(widths):
            return self._transform(predictions, x, attended, own, widths)
        # All rows attend together; only those that have the layer go on.
        places = torch.tensor([row for row, width in enumerate(widths) if width], device=x.device)
        kept = tuple(width for width in widths if width)
        agreed = kept[0] if len(set(kept)) == 1 else kept
        changed = self._transform(predictions[places], x[places], attended[places], own[places], agreed)
        return streams.index_copy(0, places, changed)

    def _transform(self, predictions: Tensor, x: Tensor, attended: Tensor, own: Tensor, widths: Widths) -> Tensor:
        """All that follows attention. x, attended: [B, T, d_model]. Returns predictions' shape."""
        attended = predictions[:, :, self.active] + attended
        attended = (attended + self.laurel(x)) / math.sqrt(2)
        transformed = self.mlp(self.pre_feedforward_layernorm(attended), widths)
        corrected = self.altup.correct(predictions, attended + self.post_feedforward_layernorm(transformed))
        first = corrected[:, :, self.active].clone()  # its stream may change below
        if self.scales_output:
            first = first * self.altup.correct_output_scale
        gated = self.activation(linear(first, self.per_layer_input_gate.weight)) * own
        added = self.post_per_layer_input_norm(linear(gated, self.per_layer_projection.weight))
        corrected[:, :, 1:] += added[:, :, None]
        return corrected
