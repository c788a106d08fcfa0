"""How many parameters an adaptive embedding and its tied adaptive softmax have (LTS, section 3: the factor k)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lts_ray.architecture import Architecture


def adaptive_params(architecture: Architecture, *, vocab_size: int, cutoffs: Sequence[int]) -> int:
    """Embedding, its projections, and the softmax's own biases, cluster rows and first projection.

    Cluster i of the vocabulary has rows of d_embed // k^i numbers. Its output projection is tied to the input one,
    save for the first cluster's. With k = 1 there is one cluster to embed, and projections only where d_embed differs
    from d_model; the softmax is adaptive all the same.
    """
    d_model, d_embed, k = architecture.d_model, architecture.d_embed, architecture.div_val
    inner = [cutoff for cutoff in cutoffs if cutoff < vocab_size]
    softmax = vocab_size + len(inner) * (d_embed + 1)
    if k == 1:
        return vocab_size * d_embed + softmax + (2 * d_model * d_embed if d_model != d_embed else 0)
    widths = [d_embed // int(k**cluster) for cluster in range(len(inner) + 1)]
    ends = [0, *inner, vocab_size]
    rows = sum((end - start) * width for (start, end), width in zip(pairwise(ends), widths, strict=True))
    return rows + sum(d_model * width for width in widths) + d_model * d_embed + softmax
