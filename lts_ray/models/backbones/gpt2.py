"""GPT-2 with heads and FFN widths that differ by layer: learned positions, norms before the sublayers, tanh GELU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.adaptive_embedding import AdaptiveEmbedding
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.backbone_cache import BackboneCache
from lts_ray.models.backbones.causal_attention import CausalAttention, Places, find_places
from lts_ray.models.backbones.plain_feed_forward import PlainFeedForward
from lts_ray.models.backbones.tied_logits import AdaptiveSoftmax, TiedLogits

CUTOFFS = (19_997, 39_997)
"""Where the rarer clusters of the byte-pair vocabulary begin (LTS's published models)."""


class GPT2Block(nn.Module):
    def __init__(self, architecture: Architecture, layer: int, dropout: float) -> None:
        super().__init__()
        d_model = architecture.d_model
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, architecture.n_head[layer])
        self.feed_forward_norm = nn.LayerNorm(d_model)
        gelu = partial(functional.gelu, approximate="tanh")
        self.feed_forward = PlainFeedForward(d_model, architecture.d_inner[layer], gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, places: Places, *, cache: BackboneCache | None, layer: int) -> Tensor:
        """x: [B, T, d_model], and so is the result."""
        x = x + self.dropout(self.attention(self.attention_norm(x), places, cache=cache, layer=layer))
        transformed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x + transformed


class GPT2(Backbone):
    """adaptive: embedding and softmax in clusters, as the search has them; False: plain tied logits, as GPT-2 was.

    dropout: on the embedding and on what each sublayer adds, while training.
    """

    embedding_parts: ClassVar[tuple[str, ...]] = ("embedding", "positions")

    def __init__(
        self,
        architecture: Architecture,
        *,
        vocab_size: int,
        context_length: int,
        adaptive: bool = True,
        cutoffs: Sequence[int] = CUTOFFS,
        dropout: float = 0.0,
    ) -> None:
        if not adaptive and (architecture.div_val != 1 or architecture.d_embed != architecture.d_model):
            raise LtsRayError(
                f"plain tied logits need div_val 1 and d_embed = d_model; got {architecture.div_val}, "
                f"{architecture.d_embed} and {architecture.d_model}: leave adaptive on"
            )
        embedding = AdaptiveEmbedding(
            architecture,
            vocab_size=vocab_size,
            cutoffs=cutoffs if adaptive else (),
            scale=architecture.d_model**0.5 if adaptive else 1.0,
        )
        super().__init__(
            architecture,
            vocab_size=vocab_size,
            context_length=context_length,
            embedding=embedding,
            head=AdaptiveSoftmax(architecture, embedding) if adaptive else TiedLogits(),
        )
        self.positions = nn.Embedding(context_length, architecture.d_model)
        self.layers = nn.ModuleList(GPT2Block(architecture, layer, dropout) for layer in range(architecture.n_layer))
        self.norm = nn.LayerNorm(architecture.d_model)
        self.dropout = nn.Dropout(dropout)

    def hidden(self, tokens: Tensor, cache: BackboneCache | None) -> Tensor:
        places = find_places(tokens, cache, self.context_length)
        x = self.dropout(self.embedding(tokens) + self.positions(places.positions))
        for layer, block in enumerate(self.layers):
            x = block(x, places, cache=cache, layer=layer)
        if cache is not None:
            cache.lengths.add_(tokens.shape[1])
        normed: Tensor = self.norm(x)
        return normed

    def initial_std(self, name: str) -> float:
        """The layers' output matrices are scaled down by depth."""
        if name.endswith(("attention.out.weight", "down.weight")):
            return float(0.02 / (2 * self.architecture.n_layer) ** 0.5)
        return super().initial_std(name)
