"""LTS's OPT space: one n_head and one d_inner for all layers, a plain embedding (LTS, appendix H)."""

from __future__ import annotations

from lts_ray.architecture import Architecture
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.spaces.ranges import Ranges

N_POSITION = 2_050
"""2,048 and the two that OPT's positions are offset by; the paper counts them as decoder (table 3)."""


def _decoder_params(architecture: Architecture) -> int:
    """Attention and FFN with biases, two LayerNorms a layer, and the learned positions."""
    d = architecture.d_model
    return sum(4 * (d * d + d) + 2 * d * f + f + d + 4 * d for f in architecture.d_inner) + N_POSITION * d


def _total_params(architecture: Architecture, *, vocab_size: int) -> int:
    return _decoder_params(architecture) + vocab_size * architecture.d_model


SPACE = BackboneSpace(
    name="opt",
    backbone="opt",
    ranges=Ranges(
        n_layer=tuple(range(3, 30)),
        d_model=tuple(range(512, 1473, 64)),
        n_head=(2, 4, 8, 16),
        d_inner=tuple(range(512, 6081, 64)),
        div_val=1,
        per_layer=False,
    ),
    count_decoder_params=_decoder_params,
    count_total_params=_total_params,
    vocab_size=50_272,
)
