"""What a candidate is: plain frozen data. Modules are built from it where they are measured, and die there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lts_ray.errors import LtsRayError


@dataclass(frozen=True, order=True)
class Submodel:
    """One FFN width (number of neurons) per layer of a universal model: a Mix'n'Match choice (MatFormer, section 2)."""

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.widths or any(not isinstance(w, int) or isinstance(w, bool) or w < 1 for w in self.widths):
            raise LtsRayError(f"a submodel has one positive whole width per layer; got {list(self.widths)}")

    def to_json(self) -> list[int]:
        return list(self.widths)

    @classmethod
    def from_json(cls, value: object) -> Submodel:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise LtsRayError(f"a submodel is a list of widths; got {value!r}")
        return cls(tuple(value))


@dataclass(frozen=True, order=True, kw_only=True)
class Architecture:
    """One candidate of a backbone; which backbone is the search space's to know (LTS, section 3 and appendix I).

    n_head, d_inner: attention heads and FFN neurons, one value per layer. d_embed: width of the embedding, projected
    where it is not d_model. div_val: the factor k by which an adaptive embedding gets narrower from one cluster of the
    vocabulary to the next, rarer one; 1 is one plain embedding.
    """

    d_model: int
    n_head: tuple[int, ...]
    d_inner: tuple[int, ...]
    d_embed: int
    div_val: int = 1

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

    def to_json(self) -> dict[str, Any]:
        return {
            "n_layer": self.n_layer,
            "d_model": self.d_model,
            "n_head": list(self.n_head),
            "d_inner": list(self.d_inner),
            "d_embed": self.d_embed,
            "div_val": self.div_val,
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
        n_layer = value.get("n_layer")
        found = cls(
            d_model=value["d_model"],
            n_head=_per_layer(value["n_head"], n_layer, "n_head"),
            d_inner=_per_layer(value["d_inner"], n_layer, "d_inner"),
            d_embed=value.get("d_embed", value["d_model"]),
            div_val=value.get("div_val", 1),
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
