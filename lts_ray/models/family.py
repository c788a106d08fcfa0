"""What sets the families of decoders apart: which norm, activation, positions and biases a block has.

A family is data; the modules read it once, when they are built. Everything else about a model is its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from lts_ray.errors import LtsRayError

Norm = Literal["rms", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
Positions = Literal["rotary", "learned"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A decoder of pre-norm blocks: attention, then a nested FFN.

    name: the model type under which transformers knows it.
    activation: "gelu" is the exact one, "gelu_tanh" GPT-2's approximation.
    gated: whether the FFN multiplies the activation of one projection by another.
    qkv_bias, out_bias: in attention. ffn_bias: in all projections of the FFN.
    qk_norm: whether each head's queries and keys are normalised.
    """

    name: str
    norm: Norm = "rms"
    activation: Activation = "silu"
    gated: bool = True
    positions: Positions = "rotary"
    qkv_bias: bool = False
    out_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for key, allowed in (
            ("norm", get_args(Norm)),
            ("activation", get_args(Activation)),
            ("positions", get_args(Positions)),
        ):
            if getattr(self, key) not in allowed:
                raise LtsRayError(f"a family's {key} is one of {', '.join(allowed)}; got {getattr(self, key)!r}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Family:
        """Of what `dataclasses.asdict` gave. Raises LtsRayError for a key that a family does not have."""
        known = {each.name for each in fields(cls)}
        unknown = sorted(value.keys() - known)
        if unknown:
            raise LtsRayError(f"a family has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**value)


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
OPT = Family(
    name="opt",
    norm="layer",
    activation="relu",
    gated=False,
    positions="learned",
    qkv_bias=True,
    out_bias=True,
    ffn_bias=True,
)
