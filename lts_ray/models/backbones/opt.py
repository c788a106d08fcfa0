"""OPT as its 350M model is: learned positions with an offset, norms after the sublayers, ReLU, plain tied logits."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.adaptive_embedding import AdaptiveEmbedding
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.backbone_cache import BackboneCache
from lts_ray.models.backbones.causal_attention import CausalAttention, Places, find_places
from lts_ray.models.backbones.plain_feed_forward import PlainFeedForward
from lts_ray.models.backbones.tied_logits import TiedLogits

MAX_POSITIONS = 2048
POSITION_OFFSET = 2
"""The first two rows of the table of positions are never read; they stem from OPT's padding."""


class OPTBlock(nn.Module):
    def __init__(self, architecture: Architecture, layer: int, dropout: float) -> None:
        super().__init__()
        d_model = architecture.d_model
        self.attention = CausalAttention(d_model, architecture.n_head[layer])
        self.attention_norm = nn.LayerNorm(d_model)
        self.feed_forward = PlainFeedForward(d_model, architecture.d_inner[layer], functional.relu)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, places: Places, *, cache: BackboneCache | None, layer: int) -> Tensor:
        """x: [B, T, d_model], and so is the result."""
        x = self.attention_norm(x + self.dropout(self.attention(x, places, cache=cache, layer=layer)))
        normed: Tensor = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return normed


class OPT(Backbone):
    """The table of positions has 2048 usable rows whatever the context length; it counts as decoder (LTS, table 3).

    dropout: on what each sublayer adds, while training.
    """

    def __init__(
        self, architecture: Architecture, *, vocab_size: int, context_length: int, dropout: float = 0.0
    ) -> None:
        if architecture.d_embed != architecture.d_model or architecture.div_val != 1:
            raise LtsRayError(
                f"OPT needs d_embed = d_model and div_val 1; got {architecture.d_embed}, {architecture.d_model} "
                f"and {architecture.div_val}"
            )
        if context_length > MAX_POSITIONS:
            raise LtsRayError(f"OPT has {MAX_POSITIONS} positions; a context of {context_length} tokens is too long")
        super().__init__(
            architecture,
            vocab_size=vocab_size,
            context_length=context_length,
            embedding=AdaptiveEmbedding(architecture, vocab_size=vocab_size),
            head=TiedLogits(),
        )
        self.positions = nn.Embedding(MAX_POSITIONS + POSITION_OFFSET, architecture.d_model)
        self.layers = nn.ModuleList(OPTBlock(architecture, layer, dropout) for layer in range(architecture.n_layer))

    def hidden(self, tokens: Tensor, cache: BackboneCache | None) -> Tensor:
        places = find_places(tokens, cache, self.context_length)
        x: Tensor = self.embedding(tokens) + self.positions(places.positions + POSITION_OFFSET)
        for layer, block in enumerate(self.layers):
            x = block(x, places, cache=cache, layer=layer)
        if cache is not None:
            cache.lengths.add_(tokens.shape[1])
        return x
