"""BERT (Devlin et al., 2019) with heads and FFN widths that differ by layer: every token sees every other one.

The encoder alone: no head, which each task adds, and no pooler. There are no steps and there is no cache: a token more
changes what all others are, so that a longer sequence is another pass. It is searched, not trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.models.backbones.adaptive_embedding import AdaptiveEmbedding
from lts_ray.models.backbones.backbone import check_heads, check_plain_embedding, count
from lts_ray.models.backbones.causal_attention import split_heads
from lts_ray.models.backbones.post_norm_block import PostNormBlock

MAX_POSITIONS = 512
TOKEN_TYPES = 2
"""The first and the second text of a pair; here all tokens are of the first."""
NORM_EPSILON = 1e-12


class BidirectionalAttention(nn.Module):
    """Queries, keys and values come from one matrix, in this order."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d_model], and so is the result."""
        q, k, v = (split_heads(part, self.n_head) for part in self.qkv(x).chunk(3, dim=-1))
        y = functional.scaled_dot_product_attention(q, k, v)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return attended


class BertEmbedding(nn.Module):
    """Word, position and type of a token, added up and normed."""

    def __init__(self, architecture: Architecture, vocab_size: int) -> None:
        super().__init__()
        self.words = AdaptiveEmbedding(architecture, vocab_size=vocab_size)
        self.positions = nn.Embedding(MAX_POSITIONS, architecture.d_model)
        self.types = nn.Embedding(TOKEN_TYPES, architecture.d_model)
        self.norm = nn.LayerNorm(architecture.d_model, eps=NORM_EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, T]. Returns [B, T, d_model]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        normed: Tensor = self.norm(self.words(tokens) + self.types.weight[0] + self.positions(places))
        return normed


class Bert(nn.Module):
    """The table of positions has 512 rows whatever the context length."""

    def __init__(self, architecture: Architecture, *, vocab_size: int, context_length: int) -> None:
        super().__init__()
        if architecture.encoder is not None:
            raise LtsRayError("BERT has one stack of layers; leave out the architecture's encoder")
        check_plain_embedding(architecture, "BERT")
        if context_length > MAX_POSITIONS:
            raise LtsRayError(f"BERT has {MAX_POSITIONS} positions; a sequence of {context_length} tokens is too long")
        check_heads(architecture.d_model, architecture.n_head)
        self.architecture, self.vocab_size, self.context_length = architecture, vocab_size, context_length
        self.embedding = BertEmbedding(architecture, vocab_size)
        d_model, layers = architecture.d_model, zip(architecture.n_head, architecture.d_inner, strict=True)
        self.layers = nn.ModuleList(
            PostNormBlock(
                BidirectionalAttention(d_model, n_head), d_model, d_inner, functional.gelu, epsilon=NORM_EPSILON
            )
            for n_head, d_inner in layers
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """What the last layer makes of tokens [B, T], int64: [B, T, d_model].

        Raises LtsRayError for more tokens than the context length.
        """
        if tokens.shape[1] > self.context_length:
            raise LtsRayError(f"{tokens.shape[1]} tokens do not fit: the context is {self.context_length} tokens")
        x: Tensor = self.embedding(tokens)
        for block in self.layers:
            x = block(x)
        return x

    def parameter_counts(self) -> Mapping[str, int]:
        """Parameters in the embedding and the encoder."""
        return {"embedding": count(self.embedding), "encoder": count(self.layers)}
