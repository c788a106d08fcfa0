"""A word embedding that spends less on rare words (Baevski and Auli, 2019): narrower tables, projected to d_model.

The vocabulary is in order of falling frequency and is cut into clusters. Cluster i has d_embed // div_val**i columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError


class AdaptiveEmbedding(nn.Module):
    """div_val 1: one table and, where d_embed is not d_model, one projection. Else: one of each for every cluster.

    cutoffs: where the clusters after the first begin; those that the vocabulary does not reach are left out.
    scale: what the result is multiplied by; a Transformer-XL takes sqrt(d_model).
    """

    def __init__(
        self, architecture: Architecture, *, vocab_size: int, cutoffs: Sequence[int] = (), scale: float = 1.0
    ) -> None:
        super().__init__()
        self.d_model, self.scale = architecture.d_model, scale
        self.bounds = (0, *(cutoff for cutoff in cutoffs if cutoff < vocab_size), vocab_size)
        if any(left >= right for left, right in pairwise(self.bounds)):
            raise LtsRayError(
                f"cutoffs must grow and lie inside the vocabulary of {vocab_size}; got {', '.join(map(str, cutoffs))}"
            )
        self.is_split = architecture.div_val > 1
        d_embed = architecture.d_embed
        if self.is_split:
            widths = [d_embed // architecture.div_val**cluster for cluster in range(len(self.bounds) - 1)]
            sizes = [right - left for left, right in pairwise(self.bounds)]
        else:
            widths, sizes = [d_embed], [vocab_size]
        if widths[-1] < 1:
            raise LtsRayError(
                f"d_embed {d_embed} is too narrow to be divided by div_val {architecture.div_val} for each of "
                f"{len(widths)} clusters; widen it or divide by less"
            )
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size, width in zip(sizes, widths, strict=True))
        projected = self.is_split or d_embed != self.d_model
        self.projections = nn.ModuleList(
            nn.Linear(width, self.d_model, bias=False) for width in (widths if projected else ())
        )

    @property
    def n_cutoffs(self) -> int:
        return len(self.bounds) - 2

    def table(self, cluster: int) -> Tensor:
        """The cluster's rows, [words, width of the cluster]."""
        if self.is_split:
            return _weight(self.tables[cluster])
        return _weight(self.tables[0])[self.bounds[cluster] : self.bounds[cluster + 1]]

    def projection(self, cluster: int) -> Tensor | None:
        """[d_model, width of the cluster], or None where the table is as wide as the model."""
        if not self.projections:
            return None
        return _weight(self.projections[cluster if self.is_split else 0])

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, T]. Returns [B, T, d_model]."""
        x = self._split(tokens.flatten()).view(*tokens.shape, -1) if self.is_split else self._embed(tokens, 0)
        return x if self.scale == 1.0 else x * self.scale

    def _split(self, tokens: Tensor) -> Tensor:
        """tokens: [N]. Each cluster reads only the tokens that are its own. Returns [N, d_model]."""
        x = self.table(0).new_empty(len(tokens), self.d_model)
        for cluster, (left, right) in enumerate(pairwise(self.bounds)):
            places = ((tokens >= left) & (tokens < right)).nonzero().squeeze(1)
            if len(places) or self.training:  # so that every table gets a gradient: data parallelism waits for each
                words = self._embed(tokens[places] - left, cluster)
                x = x.index_copy(0, places, words.to(x.dtype))  # a projection under autocast has a narrower type
        return x

    def _embed(self, tokens: Tensor, table: int) -> Tensor:
        x = functional.embedding(tokens, _weight(self.tables[table]))
        return functional.linear(x, _weight(self.projections[table])) if self.projections else x


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
