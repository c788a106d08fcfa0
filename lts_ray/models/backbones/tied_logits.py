"""From hidden states to scores of the next token; both heads read the embedding's tables, so weights are tied.

A score is a logit or a log-probability: softmax, cross-entropy and argmax make no difference between them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.models.backbones.adaptive_embedding import AdaptiveEmbedding


class TiedLogits(nn.Module):
    """The plain output head: no parameters of its own."""

    def forward(self, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """hidden: [B, T, d_model]. Returns logits, [B, T, vocab_size]."""
        return functional.linear(hidden, embedding.table(0))

    def loss(self, hidden: Tensor, targets: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """hidden: [B, T, d_model]; targets: [B, T]. Returns the mean nats per token, a scalar."""
        logits: Tensor = self(hidden, embedding)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities in two steps (Grave et al., 2017): a frequent word or a cluster, then the word in its cluster.

    A word of cluster i > 0 has log p(cluster i) + log p(word | cluster i). Its tables are the embedding's, and so are
    the projections of the rare clusters; the frequent words and the clusters themselves have a projection of their own.
    """

    def __init__(self, architecture: Architecture, embedding: AdaptiveEmbedding) -> None:
        super().__init__()
        self.bounds = embedding.bounds
        self.bias = nn.Parameter(torch.zeros(self.bounds[-1]))
        self.clusters = nn.Linear(architecture.d_embed, embedding.n_cutoffs) if embedding.n_cutoffs else None
        projected = embedding.projection(0) is not None
        self.projection = nn.Linear(architecture.d_model, architecture.d_embed, bias=False) if projected else None

    def forward(self, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """hidden: [B, T, d_model]. Returns log-probabilities, [B, T, vocab_size]."""
        frequent = self.bounds[1]
        head = torch.log_softmax(self._head(hidden, embedding), dim=-1)
        if self.clusters is None:
            return head
        scores = head.new_empty(*hidden.shape[:-1], self.bounds[-1])
        scores[..., :frequent] = head[..., :frequent]
        for cluster, (left, right) in enumerate(pairwise(self.bounds[1:]), start=1):
            column = frequent + cluster - 1
            part = scores[..., left:right]
            part.copy_(torch.log_softmax(self._tail(hidden, cluster, embedding), dim=-1))
            part.add_(head[..., column : column + 1])
        return scores

    def loss(self, hidden: Tensor, targets: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """The mean nats per token, a scalar: cross-entropy over `forward`, but a rare cluster sees its own tokens only.

        hidden: [B, T, d_model]; targets: [B, T].
        """
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        frequent = self.bounds[1]
        choices, total = targets, hidden.new_zeros((), dtype=torch.float32)
        for cluster, (left, right) in enumerate(pairwise(self.bounds[1:]), start=1):
            inside = (targets >= left) & (targets < right)
            choices = choices.masked_fill(inside, frequent + cluster - 1)
            places = inside.nonzero().squeeze(1)
            logits = self._tail(hidden[places], cluster, embedding)
            total = total + functional.cross_entropy(logits.float(), targets[places] - left, reduction="sum")
        logits = self._head(hidden, embedding)
        return (total + functional.cross_entropy(logits.float(), choices, reduction="sum")) / len(targets)

    def _head(self, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """Logits of the frequent words and, behind them, of the rare clusters."""
        if self.projection is not None:
            hidden = self.projection(hidden)
        words = functional.linear(hidden, embedding.table(0), self.bias[: self.bounds[1]])
        return words if self.clusters is None else torch.cat([words, self.clusters(hidden)], dim=-1)

    def _tail(self, hidden: Tensor, cluster: int, embedding: AdaptiveEmbedding) -> Tensor:
        """Logits of the words of one rare cluster."""
        projection = embedding.projection(cluster)
        if projection is not None:
            hidden = hidden @ projection
        left, right = self.bounds[cluster], self.bounds[cluster + 1]
        return functional.linear(hidden, embedding.table(cluster), self.bias[left:right])
