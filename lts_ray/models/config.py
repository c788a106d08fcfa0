"""The shape of a universal model, the names of its granularities, and what a submodel of it may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.models.family import LLAMA, Family

GRANULARITIES: Mapping[str, float] = {"S": 0.125, "M": 0.25, "L": 0.5, "XL": 1.0}
"""The trained FFN fractions (MatFormer, section 3)."""


def check_granularities(given: object, *, what: str = "granularities") -> None:
    """Raises LtsRayError for anything but growing fractions by name, the last of them 1; `what` is their place."""
    pairs = list(given.items()) if isinstance(given, Mapping) else []
    if not pairs or not all(isinstance(name, str) and type(value) in (int, float) for name, value in pairs):
        raise LtsRayError(f"{what} must be fractions by name, such as {{S: 0.25, XL: 1}}; got {given!r}")
    fractions = [value for _, value in pairs]
    if fractions != sorted(set(fractions)) or not all(0 < each <= 1 for each in fractions) or fractions[-1] != 1:
        raise LtsRayError(f"{what} must be growing fractions that end at 1; got {fractions}")


@dataclass(frozen=True, kw_only=True)
class MatFormerConfig:
    """A decoder of one family whose FFN blocks nest.

    widths: full FFN width of each layer, in neurons. A trained universal model has one width in all layers;
    an extracted Mix'n'Match submodel may not.
    context_length: the most tokens that a row may hold, prompt and response together.
    rope_theta: read where the family's positions are rotary. rms_norm_eps: of the norms, of either kind.
    head_dim: of each head; None: d_model / n_head.
    tied: whether the output matrix is the embedding.
    bos_token_id, eos_token_id: noted for the files that transformers reads; the model itself has no use for them.
    """

    vocab_size: int
    d_model: int
    n_head: int
    n_kv_head: int
    widths: tuple[int, ...]
    context_length: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    granularities: Mapping[str, float] = field(default_factory=lambda: dict(GRANULARITIES))
    family: Family = LLAMA
    head_dim: int | None = None
    tied: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_head", "n_kv_head", "context_length"):
            if getattr(self, name) < 1:
                raise LtsRayError(f"{name} must be at least 1; got {getattr(self, name)}")
        Submodel(self.widths)
        if self.head_dim is None and self.d_model % self.n_head:
            raise LtsRayError(f"d_model / n_head must be a whole number; got {self.d_model} / {self.n_head}")
        if self.d_head < 1 or (self.family.positions == "rotary" and self.d_head % 2):
            raise LtsRayError(f"a head needs an even number of at least 2 dimensions to rotate; got {self.d_head}")
        if self.n_head % self.n_kv_head:
            raise LtsRayError(f"n_head must be a multiple of n_kv_head; got {self.n_head} and {self.n_kv_head}")
        check_granularities(self.granularities)

    @property
    def n_layer(self) -> int:
        return len(self.widths)

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_head if self.head_dim is None else self.head_dim

    @cached_property
    def universal(self) -> Submodel:
        return Submodel(self.widths)

    @cached_property
    def trained(self) -> Mapping[str, Submodel]:
        """The submodels that training optimises, by name, smallest first."""
        return {name: self.fraction(value) for name, value in self.granularities.items()}

    def fraction(self, value: float) -> Submodel:
        return Submodel(tuple(max(1, round(value * width)) for width in self.widths))

    def check(self, submodel: Submodel) -> Submodel:
        """`submodel` itself, if this model has it."""
        if len(submodel.widths) != self.n_layer:
            raise LtsRayError(
                f"the submodel has {len(submodel.widths)} widths, but the model has {self.n_layer} layers"
            )
        for layer, (width, full) in enumerate(zip(submodel.widths, self.widths, strict=True)):
            if width > full:
                raise LtsRayError(f"layer {layer} has {full} neurons; the submodel asks for {width}")
        return submodel

    def submodel(self, text: str) -> Submodel:
        """Parse `XL`, `0.5`, or one width or granularity per layer: `256,512,S,XL`.

        Raises LtsRayError for anything else: an unknown name never means the universal model.
        """
        name = text.strip()
        if name in self.trained:
            return self.trained[name]
        if "," in name:
            parts = [part.strip() for part in name.split(",")]
            if len(parts) != self.n_layer:
                raise LtsRayError(
                    f"the submodel {text!r} has {len(parts)} widths, but the model has {self.n_layer} layers"
                )
            return self.check(Submodel(tuple(self._width(part, layer, text) for layer, part in enumerate(parts))))
        try:
            value = float(name)
        except ValueError:
            raise self._unknown(text) from None
        if not 0 < value <= 1:
            raise self._unknown(text)
        return self.fraction(value)

    def _width(self, part: str, layer: int, text: str) -> int:
        if part in self.trained:
            return self.trained[part].widths[layer]
        if not part.isdecimal():
            raise self._unknown(text)
        return int(part)

    def _unknown(self, text: str) -> LtsRayError:
        names = ", ".join(self.granularities)
        return LtsRayError(
            f"unknown submodel {text!r}: use one of {names}, a fraction in (0, 1], "
            f"or {self.n_layer} widths such as {','.join(str(w) for w in self.widths)}"
        )

    def decoder_params(self, submodel: Submodel | None = None) -> int:
        """Parameters in the layers and the final norm, without the embedding: LTS's proxy for quality."""
        chosen = self.universal if submodel is None else self.check(submodel)
        family, d_model = self.family, self.d_model
        d_q, d_kv = self.n_head * self.d_head, self.n_kv_head * self.d_head
        norm = d_model if family.norm == "rms" else 2 * d_model
        attention = 2 * d_model * (d_q + d_kv)
        attention += family.qkv_bias * (d_q + 2 * d_kv) + family.out_bias * d_model + family.qk_norm * 2 * self.d_head
        inward = 2 if family.gated else 1  # projections into the FFN; one leads out of it
        per_neuron = (inward + 1) * d_model + family.ffn_bias * inward
        layer = attention + 2 * norm + family.ffn_bias * d_model
        return self.n_layer * layer + sum(per_neuron * width for width in chosen.widths) + norm

    @property
    def embedding_params(self) -> int:
        """All the others: tables of tokens and positions, and the output matrix where it is not the embedding."""
        tables = self.vocab_size * (1 if self.tied else 2)
        return self.d_model * (tables + (self.context_length if self.family.positions == "learned" else 0))

    def relative_size(self, submodel: Submodel) -> float:
        """The submodel's share of the universal model's FFN neurons, in (0, 1]."""
        return sum(submodel.widths) / sum(self.widths)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MatFormerConfig:
        """Of what `to_json` gave, whether or not it was text in between."""
        eos = value["eos_token_id"]
        return cls(
            **{
                **value,
                "widths": tuple(value["widths"]),
                "family": Family.from_json(value["family"]),
                "eos_token_id": tuple(eos) if isinstance(eos, list | tuple) else eos,
            }
        )
