"""How rotary positions are stretched past the length that a model was first trained on, as transformers has it.

linear: Chen et al. 2023, https://arxiv.org/abs/2306.15595; yarn: Peng et al. 2023, https://arxiv.org/abs/2309.00071;
llama3: Llama 3.1. `dynamic` stretches only what is longer than the context, which nothing here is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from lts_ray.errors import LtsRayError
from lts_ray.record import Positive, Whole, record

Number = Annotated[float, Ge(0)]


@record(what="rope_scaling")
class RopeScaling:
    """What frequencies and size of the rotations differ in from plain rotary positions."""

    kind: Literal["linear", "dynamic", "llama3", "yarn"]
    """transformers' `rope_type`."""
    factor: Positive
    """By which slow rotations are slowed down."""
    original_length: Whole = 1
    """Of llama3 and yarn: tokens of the texts that the model was first trained on."""
    low_freq_factor: Positive = 1.0
    """Of llama3: rotations that turn less often than this in the original length are slowed down wholly."""
    high_freq_factor: Positive = 4.0
    """Of llama3: those that turn more often keep their frequency."""
    beta_fast: Positive = 32.0
    """Of yarn: rotations that turn more often than this in the original length keep their frequency."""
    beta_slow: Positive = 1.0
    """Of yarn: those that turn less often are slowed down wholly."""
    truncate: bool = True
    """Of yarn: whether the bounds between them are whole dimensions."""
    magnitude: Number = 1.0
    """Of yarn: what cos and sin are multiplied by."""

    def __post_init__(self) -> None:
        if self.high_freq_factor <= self.low_freq_factor:
            raise LtsRayError(
                f"high_freq_factor must be above low_freq_factor; got {self.high_freq_factor} and "
                f"{self.low_freq_factor}"
            )

    @classmethod
    def read(cls, rope: Mapping[str, Any], *, context_length: int) -> RopeScaling | None:
        """Out of transformers' `rope_parameters` (or `rope_scaling`); None where nothing is stretched.

        context_length: `max_position_embeddings`, which stands for what is left out.
        Raises LtsRayError for a kind that we do not have; KeyError, TypeError or ValueError for a malformed one.
        """
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "default":
            return None
        if kind in ("linear", "dynamic"):
            return cls(kind=kind, factor=float(rope["factor"]))
        if kind not in ("llama3", "yarn"):
            raise LtsRayError(f"its rotary positions are {kind!r}; lts-ray has default, linear, dynamic, llama3, yarn")
        original = rope.get("original_max_position_embeddings", context_length)
        if kind == "llama3":
            return cls(
                kind=kind,
                factor=float(rope["factor"]),
                original_length=int(original),
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
            )
        factor = context_length / original if rope["factor"] is None else float(rope["factor"])
        return cls(
            kind=kind,
            factor=factor,
            original_length=int(original),
            beta_fast=float(rope.get("beta_fast") or 32.0),
            beta_slow=float(rope.get("beta_slow") or 1.0),
            truncate=bool(rope.get("truncate", True)),
            magnitude=_magnitude(rope, factor),
        )

    def written(self) -> dict[str, Any]:
        """As transformers reads it, and `read`."""
        raw: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind in ("llama3", "yarn"):
            raw["original_max_position_embeddings"] = self.original_length
        if self.kind == "llama3":
            raw |= {"low_freq_factor": self.low_freq_factor, "high_freq_factor": self.high_freq_factor}
        if self.kind == "yarn":
            bounds = {"beta_fast": self.beta_fast, "beta_slow": self.beta_slow, "truncate": self.truncate}
            raw |= {**bounds, "attention_factor": self.magnitude}
        return raw

    def frequencies(self, plain: Tensor, *, theta: float) -> Tensor:
        """plain: [d_head / 2], radians a token, falling; and so is the result."""
        if self.kind == "dynamic":
            return plain
        if self.kind == "linear":
            return plain / self.factor
        kept = self._kept(plain) if self.kind == "llama3" else self._kept_by_yarn(2 * len(plain), theta)
        return plain * kept + plain / self.factor * (1 - kept)

    def _kept(self, plain: Tensor) -> Tensor:
        """The share of each frequency that stays, by how often it turns in the original length."""
        turns = self.original_length * plain / (2 * math.pi)
        return ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)

    def _kept_by_yarn(self, d_head: int, theta: float) -> Tensor:
        """Likewise, falling evenly over the dimensions between two bounds."""

        def dimension(turns: float) -> float:
            return d_head * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d_head - 1)
        places = torch.arange(d_head // 2, dtype=torch.float32)
        return 1 - ((places - low) / (high - low if high != low else 0.001)).clamp(0, 1)


def _magnitude(rope: Mapping[str, Any], factor: float) -> float:
    """Of yarn: given, or by what the paper suggests."""
    given, numerator, denominator = (rope.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        return float(given)
    if factor <= 1:
        return 1.0
    scale = 0.1 * math.log(factor)
    if numerator and denominator:
        return float((numerator * scale + 1) / (denominator * scale + 1))
    return scale + 1
