"""LTS's GPT-2 space: heterogeneous layers, adaptive embedding with factor 4 (LTS, section 3 and appendix I)."""

from __future__ import annotations

from dataclasses import replace

from lts_ray.architecture import Architecture
from lts_ray.spaces.adaptive_params import adaptive_params
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.spaces.ranges import Ranges

CUTOFFS = (19_997, 39_997)
N_POSITION = 192
"""Positions of the published models; they are embedding, not decoder."""


def _decoder_params(architecture: Architecture) -> int:
    """Attention and FFN with biases, two LayerNorms a layer, and the final LayerNorm."""
    d = architecture.d_model
    return sum(4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d for f in architecture.d_inner) + 2 * d


def _total_params(architecture: Architecture, *, vocab_size: int) -> int:
    embedding = adaptive_params(architecture, vocab_size=vocab_size, cutoffs=CUTOFFS)
    return _decoder_params(architecture) + embedding + N_POSITION * architecture.d_model


SPACE = BackboneSpace(
    name="gpt2",
    backbone="gpt2",
    ranges=Ranges(
        n_layer=tuple(range(2, 16)),
        d_model=tuple(range(128, 961, 64)),
        n_head=(2, 4, 8),
        d_inner=tuple(range(128, 4033, 64)),
        div_val=4,
    ),
    count_decoder_params=_decoder_params,
    count_total_params=_total_params,
    vocab_size=50_264,
)
HOMOGENEOUS = replace(SPACE, name="gpt2-homogeneous", ranges=replace(SPACE.ranges, per_layer=False))
"""All layers alike (appendix D)."""
