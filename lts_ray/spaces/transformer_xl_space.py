"""LTS's Transformer-XL space: heterogeneous layers, adaptive embedding with factor 4 (LTS, section 3, appendix I)."""

from __future__ import annotations

from dataclasses import replace

from lts_ray.architecture import Architecture
from lts_ray.spaces import gpt2_space
from lts_ray.spaces.adaptive_params import adaptive_params
from lts_ray.spaces.backbone_space import BackboneSpace

CUTOFFS = (19_997, 39_997, 199_997)


def _decoder_params(architecture: Architecture) -> int:
    """q, k, v, relative positions and output without biases, the two attention biases, FFN, two LayerNorms a layer."""
    d = architecture.d_model
    return sum(5 * d * d + 2 * d + 2 * d * f + f + d + 4 * d for f in architecture.d_inner)


def _total_params(architecture: Architecture, *, vocab_size: int) -> int:
    return _decoder_params(architecture) + adaptive_params(architecture, vocab_size=vocab_size, cutoffs=CUTOFFS)


SPACE = BackboneSpace(
    name="transformer-xl",
    backbone="transformer-xl",
    ranges=replace(gpt2_space.SPACE.ranges, n_layer=tuple(range(2, 17))),
    count_decoder_params=_decoder_params,
    count_total_params=_total_params,
    vocab_size=267_735,
)
HOMOGENEOUS = replace(SPACE, name="transformer-xl-homogeneous", ranges=replace(SPACE.ranges, per_layer=False))
"""All layers alike (appendix D)."""
