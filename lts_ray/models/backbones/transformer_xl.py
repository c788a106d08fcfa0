"""Transformer-XL (Dai et al., 2019) with heads and FFN widths that differ by layer: no limit to its context.

A segment sees itself and the `memory_length` tokens before it. The memory is the cache: keys and values of earlier
tokens, which equal what would be computed again from their stored hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.adaptive_embedding import AdaptiveEmbedding
from lts_ray.models.backbones.backbone import Backbone
from lts_ray.models.backbones.backbone_cache import BackboneCache
from lts_ray.models.backbones.post_norm_block import PostNormBlock
from lts_ray.models.backbones.relative_attention import RelativeAttention, Window, distance_table, make_room
from lts_ray.models.backbones.tied_logits import AdaptiveSoftmax

CUTOFFS = (19_997, 39_997, 199_997)
"""Where the rarer clusters of WikiText-103's words begin (Dai et al.'s models, and LTS's)."""


class TransformerXL(Backbone):
    """The rows of a cache must hold equally many tokens; a full cache keeps the memory and forgets what is older.

    dropout: on the embedding, on what each sublayer adds and on the result, while training.
    """

    distances: Tensor

    def __init__(
        self,
        architecture: Architecture,
        *,
        vocab_size: int,
        memory_length: int,
        cutoffs: Sequence[int] = CUTOFFS,
        dropout: float = 0.0,
    ) -> None:
        if memory_length < 0:
            raise LtsRayError(f"memory_length must be 0 or more; got {memory_length}")
        if architecture.d_model % 2:
            raise LtsRayError(f"Transformer-XL needs an even d_model; got {architecture.d_model}")
        embedding = AdaptiveEmbedding(
            architecture, vocab_size=vocab_size, cutoffs=cutoffs, scale=architecture.d_model**0.5
        )
        super().__init__(
            architecture,
            vocab_size=vocab_size,
            context_length=None,
            embedding=embedding,
            head=AdaptiveSoftmax(architecture, embedding),
        )
        self.memory_length = memory_length
        d_model, layers = architecture.d_model, zip(architecture.n_head, architecture.d_inner, strict=True)
        self.layers = nn.ModuleList(
            PostNormBlock(RelativeAttention(d_model, n_head), d_model, d_inner, functional.relu, dropout=dropout)
            for n_head, d_inner in layers
        )
        self.dropout = nn.Dropout(dropout)
        # Enough for segments as long as the memory; longer ones compute theirs.
        self.register_buffer("distances", distance_table(2 * memory_length, architecture.d_model), persistent=False)

    def hidden(self, tokens: Tensor, cache: BackboneCache | None) -> Tensor:
        x: Tensor = self.dropout(self.embedding(tokens))
        window = self._window(tokens, cache, x)
        for layer, block in enumerate(self.layers):
            x = block(x, window, cache=cache, layer=layer)
        if cache is not None:
            cache.lengths.add_(tokens.shape[1])
        dropped: Tensor = self.dropout(x)
        return dropped

    def _window(self, tokens: Tensor, cache: BackboneCache | None, x: Tensor) -> Window:
        length = tokens.shape[1]
        start = 0 if cache is None else make_room(cache, tokens, self.memory_length)
        memory = min(start, self.memory_length)
        keys = memory + length
        if keys < len(self.distances):
            distances = self.distances[-keys - 1 :]
        else:
            distances = distance_table(keys, self.architecture.d_model).to(x)
        mask = x.new_full((length, keys), float("-inf")).triu(memory + 1)
        return Window(start=start, memory=memory, distances=distances, mask=mask)
