"""A candidate of a backbone: plain frozen data. Modules are built from it where they are measured, and die there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.submodel import are_whole


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
        if not isinstance(value, Mapping):
            raise LtsRayError(f"{what} is an object with n_head and d_inner; got {value!r}")
        missing = [key for key in ("n_head", "d_inner") if key not in value]
        if missing:
            raise LtsRayError(f"{what} needs {', '.join(missing)}; got {', '.join(map(str, value))}")
        n_layer = value.get("n_layer")
        found = cls(
            n_head=_per_layer(value["n_head"], n_layer, "n_head"),
            d_inner=_per_layer(value["d_inner"], n_layer, "d_inner"),
        )
        if n_layer is not None and n_layer != found.n_layer:
            raise LtsRayError(f"n_layer is {n_layer!r}, but n_head and d_inner have {found.n_layer} values")
        return found


@dataclass(frozen=True, order=True, kw_only=True)
class Architecture:
    """One candidate of a backbone; which backbone is the search space's to know (LTS, section 3 and appendix I).

    n_head, d_inner: attention heads and FFN neurons, one value per layer. d_embed: width of the embedding, projected
    where it is not d_model. div_val: the factor k by which an adaptive embedding gets narrower from one cluster of the
    vocabulary to the next, rarer one; 1 is one plain embedding. encoder: of an encoder–decoder, whose other layers are
    its decoder; None for one stack of layers.
    """

    d_model: int
    n_head: tuple[int, ...]
    d_inner: tuple[int, ...]
    d_embed: int
    div_val: int = 1
    encoder: Stack | None = None

    def __post_init__(self) -> None:
        numbers = (self.d_model, *self.n_head, *self.d_inner, self.d_embed, self.div_val)
        if any(not isinstance(each, int) or isinstance(each, bool) or each < 1 for each in numbers):
            raise LtsRayError(f"an architecture is made of positive whole numbers; got {self.to_json()}")
        if not self.n_head or len(self.n_head) != len(self.d_inner):
            raise LtsRayError(
                f"n_head and d_inner need one value per layer; got {len(self.n_head)} and {len(self.d_inner)}"
            )

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
        if not isinstance(value, Mapping):
            raise LtsRayError(f"an architecture is an object with d_model, n_head and d_inner; got {value!r}")
        missing = [key for key in ("d_model", "n_head", "d_inner") if key not in value]
        if missing:
            raise LtsRayError(f"an architecture needs {', '.join(missing)}; got {', '.join(map(str, value))}")
        n_layer, encoder = value.get("n_layer"), value.get("encoder")
        found = cls(
            d_model=value["d_model"],
            n_head=_per_layer(value["n_head"], n_layer, "n_head"),
            d_inner=_per_layer(value["d_inner"], n_layer, "d_inner"),
            d_embed=value.get("d_embed", value["d_model"]),
            div_val=value.get("div_val", 1),
            encoder=None if encoder is None else Stack.from_json(encoder, "an architecture's encoder"),
        )
        if n_layer is not None and n_layer != found.n_layer:
            raise LtsRayError(f"n_layer is {n_layer!r}, but n_head and d_inner have {found.n_layer} values")
        return found


def _per_layer(value: object, n_layer: object, name: str) -> tuple[int, ...]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    if isinstance(value, int) and isinstance(n_layer, int):
        return (value,) * n_layer
    raise LtsRayError(f"{name} is a list with one number per layer, or one number beside n_layer; got {value!r}")
