"""A space of T5-like encoder–decoders: two stacks of one width, each with layers of its own (LTS, appendix J)."""

from __future__ import annotations

from dataclasses import replace

from lts_ray.architecture import Architecture, Stack
from lts_ray.spaces.encoder_decoder_space import EncoderDecoderSpace, encoder_of
from lts_ray.spaces.ranges import DESCRIBED

N_BUCKET = 32
"""Buckets of relative positions. Layers of one stack with equally many heads share a table of their biases."""


def _encoder_params(architecture: Architecture) -> int:
    """Attention and FFN without biases, two norms a layer; the position biases and the final norm."""
    d, encoder = architecture.d_model, encoder_of(architecture)
    return sum(4 * d * d + 2 * d * f + 2 * d for f in encoder.d_inner) + _around(d, encoder)


def _decoder_params(architecture: Architecture) -> int:
    """As the encoder's, and attention to the encoder with its norm in every layer."""
    d, own = architecture.d_model, architecture.stacks[0]
    return sum(8 * d * d + 2 * d * f + 3 * d for f in own.d_inner) + _around(d, own)


def _total_params(architecture: Architecture, *, vocab_size: int) -> int:
    """The embedding is one for both stacks and the logits."""
    return _encoder_params(architecture) + _decoder_params(architecture) + vocab_size * architecture.d_model


def _around(d_model: int, stack: Stack) -> int:
    return N_BUCKET * sum(set(stack.n_head)) + d_model


SPACE = EncoderDecoderSpace(
    name="t5",
    backbone="t5",
    ranges=DESCRIBED,
    count_decoder_params=_decoder_params,
    count_encoder_params=_encoder_params,
    count_total_params=_total_params,
    vocab_size=32_128,
)
HOMOGENEOUS = replace(SPACE, name="t5-homogeneous", ranges=replace(SPACE.ranges, per_layer=False), are_alike=True)
"""All layers alike, and encoder and decoder identical, as in the translation benchmark of appendix J."""
