"""A space of BERT encoders: heterogeneous layers, a plain embedding (LTS, appendix J, which trained 300 of them)."""

from __future__ import annotations

from lts_ray.architecture import Architecture
from lts_ray.spaces.backbone_space import BackboneSpace
from lts_ray.spaces.ranges import DESCRIBED

N_POSITION, N_TYPE = 512, 2
"""Learned positions and types of tokens; they are embedding, and so is the LayerNorm over their sum."""


def _encoder_params(architecture: Architecture) -> int:
    """Attention and FFN with biases, two LayerNorms a layer."""
    d = architecture.d_model
    return sum(4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d for f in architecture.d_inner)


def _total_params(architecture: Architecture, *, vocab_size: int) -> int:
    return _encoder_params(architecture) + (vocab_size + N_POSITION + N_TYPE + 2) * architecture.d_model


SPACE = BackboneSpace(
    name="bert",
    backbone="bert",
    ranges=DESCRIBED,
    count_encoder_params=_encoder_params,
    count_total_params=_total_params,
    vocab_size=30_522,
)
