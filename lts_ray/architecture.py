"""A candidate of a backbone: plain frozen data. Modules are built from it where they are measured, and die there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.submodel import are_whole

MOST_LAYERS = 10_000
"""Of a model: far more than any has, few enough to list."""
MOST_VOCABULARY = 10_000_000
"""Of a vocabulary, likewise."""


@dataclass(frozen=True, order=True, kw_only=True)
class Stack:
    """A stack of layers: attention heads and FFN neurons, one value per layer."""

    n_head: tuple[int, ...]
    d_inner: tuple[int, ...]

    def __post_init__(self) -> None:
        if not are_whole((*self.n_head, *self.d_inner), 1):
            raise LtsRayError(f"a stack of layers is made of positive whole numbers; got {self.to_json()}")
        if not self.n_head or len(self.n_head) != len(self.d_inner):
            raise LtsRayError(
                f"n_head and d_inner need one value per layer; got {len(self.n_head)} and {len(self.d_inner)}"
            )

    @property
    def n_layer(self) -> int:
        return len(self.n_head)

    def to_json(self) -> dict[str, Any]:
        return {"n_layer": self.n_layer, "n_head": list(self.n_head), "d_inner": list(self.d_inner)}

    @classmethod
    def from_json(cls, value: object, what: str) -> Stack:
        """n_head and d_inner may be one number for all of n_layer layers. what: the stack's name in messages."""
        keys = _with_keys(value, what, "n_head", "d_inner")
        n_layer = keys.get("n_layer")
        stack = cls(
            n_head=_per_layer(keys["n_head"], n_layer, "n_head"),
            d_inner=_per_layer(keys["d_inner"], n_layer, "d_inner"),
        )
        if n_layer is not None and n_layer != stack.n_layer:
            raise LtsRayError(f"n_layer is {n_layer!r}, but n_head and d_inner have {stack.n_layer} values")
        return stack


@dataclass(frozen=True, order=True, kw_only=True)
class Architecture:
    """One candidate of a backbone; which backbone is the search space's to know (LTS, section 3 and appendix I)."""

    d_model: int
    n_head: tuple[int, ...]
    """Attention heads, one value per layer."""
    d_inner: tuple[int, ...]
    """FFN neurons, one value per layer."""
    d_embed: int
    """Width of the embedding, projected where it is not d_model."""
    div_val: int = 1
    """The factor k by which an adaptive embedding gets narrower from one cluster of the vocabulary to the next, rarer
    one; 1 is one plain embedding."""
    encoder: Stack | None = None
    """Of an encoder–decoder, whose other layers are its decoder; None for one stack of layers."""

    def __post_init__(self) -> None:
        if not are_whole((self.d_model, self.d_embed, self.div_val), 1):
            raise LtsRayError(f"an architecture is made of positive whole numbers; got {self.to_json()}")
        _ = self.stacks  # whose layers are checked

    @property
    def n_layer(self) -> int:
        return len(self.n_head)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Its own layers, then the encoder's where there is one beside them."""
        own = Stack(n_head=self.n_head, d_inner=self.d_inner)
        return (own,) if self.encoder is None else (own, self.encoder)

    def to_json(self) -> dict[str, Any]:
        """`encoder` where there is one."""
        return {
            "n_layer": self.n_layer,
            "d_model": self.d_model,
            "n_head": list(self.n_head),
            "d_inner": list(self.d_inner),
            "d_embed": self.d_embed,
            "div_val": self.div_val,
            **({} if self.encoder is None else {"encoder": self.encoder.to_json()}),
        }

    @classmethod
    def from_json(cls, value: object) -> Architecture:
        """n_head and d_inner may be one number for all of n_layer layers; d_embed is d_model and div_val 1 if absent.

        Other keys are left alone: a row of a results table is an architecture too.
        """
        keys = _with_keys(value, "an architecture", "d_model", "n_head", "d_inner")
        own, encoder = Stack.from_json(keys, "an architecture"), keys.get("encoder")
        return cls(
            d_model=keys["d_model"],
            n_head=own.n_head,
            d_inner=own.d_inner,
            d_embed=keys.get("d_embed", keys["d_model"]),
            div_val=keys.get("div_val", 1),
            encoder=None if encoder is None else Stack.from_json(encoder, "an architecture's encoder"),
        )


def _with_keys(value: object, what: str, *needed: str) -> Mapping[str, Any]:
    """`value`, if it is an object with these keys. Raises LtsRayError."""
    if not isinstance(value, Mapping):
        raise LtsRayError(f"{what} is an object with {', '.join(needed[:-1])} and {needed[-1]}; got {value!r}")
    if missing := [key for key in needed if key not in value]:
        raise LtsRayError(f"{what} needs {', '.join(missing)}; got {', '.join(map(str, value))}")
    return value


def _per_layer(value: object, n_layer: object, name: str) -> tuple[int, ...]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    if isinstance(value, int) and isinstance(n_layer, int):
        if n_layer > MOST_LAYERS:
            raise LtsRayError(f"n_layer must be at most {MOST_LAYERS}; got {n_layer}")
        return (value,) * n_layer
    raise LtsRayError(f"{name} is a list with one number per layer, or one number beside n_layer; got {value!r}")
