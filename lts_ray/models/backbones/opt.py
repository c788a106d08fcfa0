"""OPT as its 350M model is: learned positions with an offset, norms after the sublayers, ReLU, plain tied logits."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.adaptive_embedding import AdaptiveEmbedding
from lts_ray.models.backbones.backbone import Backbone, check_plain_embedding
from lts_ray.models.backbones.backbone_cache import BackboneCache
from lts_ray.models.backbones.causal_attention import CausalAttention, find_places
from lts_ray.models.backbones.post_norm_block import PostNormBlock
from lts_ray.models.backbones.tied_logits import TiedLogits

MAX_POSITIONS = 2048
POSITION_OFFSET = 2
"""The first two rows of the table of positions are never read; they stem from OPT's padding."""


class OPT(Backbone):
    """The table of positions has 2048 usable rows whatever the context length; it counts as decoder (LTS, table 3).

    dropout: on what each sublayer adds, while training.
    """

    def __init__(
        self, architecture: Architecture, *, vocab_size: int, context_length: int, dropout: float = 0.0
    ) -> None:
        check_plain_embedding(architecture, "OPT")
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
        d_model, layers = architecture.d_model, zip(architecture.n_head, architecture.d_inner, strict=True)
        self.layers = nn.ModuleList(
            PostNormBlock(CausalAttention(d_model, n_head), d_model, d_inner, functional.relu, dropout=dropout)
            for n_head, d_inner in layers
        )

    def hidden(self, tokens: Tensor, cache: BackboneCache | None) -> Tensor:
        places = find_places(tokens, cache, self.context_length)
        x: Tensor = self.embedding(tokens) + self.positions(places.positions + POSITION_OFFSET)
        for layer, block in enumerate(self.layers):
            x = block(x, places, cache=cache, layer=layer)
        if cache is not None:
            cache.lengths.add_(tokens.shape[1])
        return x
