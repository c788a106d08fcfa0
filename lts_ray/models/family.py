"""What sets the families of decoders apart: which norm, activation, positions and biases a block has.

A family is data; the modules read it once, when they are built. Everything else about a model is its shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from lts_ray.errors import LtsRayError

Norm = Literal["rms", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
Positions = Literal["rotary", "learned"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A decoder of pre-norm blocks: attention, then a nested FFN."""

    name: str
    """The model type under which transformers knows it."""
    norm: Norm = "rms"
    activation: Activation = "silu"
    """'gelu' is the exact one, 'gelu_tanh' GPT-2's approximation."""
    gated: bool = True
    """Whether the FFN multiplies the activation of one projection by another."""
    positions: Positions = "rotary"
    qkv_bias: bool = False
    out_bias: bool = False
    """In attention, as qkv_bias."""
    ffn_bias: bool = False
    """In all projections of the FFN."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised."""

    def __post_init__(self) -> None:
        for key, kind in (("norm", Norm), ("activation", Activation), ("positions", Positions)):
            if getattr(self, key) not in (allowed := get_args(kind)):
                raise LtsRayError(f"a family's {key} is one of {', '.join(allowed)}; got {getattr(self, key)!r}")


LLAMA = Family(name="llama")
QWEN2 = Family(name="qwen2", qkv_bias=True)
QWEN3 = Family(name="qwen3", qk_norm=True)
MISTRAL = Family(name="mistral")
GPT2 = Family(
    name="gpt2",
    norm="layer",
    activation="gelu_tanh",
    gated=False,
    positions="learned",
    qkv_bias=True,
    out_bias=True,
    ffn_bias=True,
)
OPT = replace(GPT2, name="opt", activation="relu")
