"""What of a universal model is run: plain frozen data, and the argument that every pass takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.precision import PRECISIONS

FIELDS = {"widths", "heads", "d_model", "precision"}
"""Of a submodel in a file."""


@dataclass(frozen=True, order=True)
class Submodel:
    """A Mix'n'Match choice (MatFormer, section 2). A model's `check` gives the form that names nothing it has whole."""

    widths: tuple[int, ...]
    """FFN neurons, one number per layer; 0 leaves the whole layer out, in models that have layers to spare."""
    heads: tuple[int, ...] = ()
    """Attention heads, one number per layer; empty: all of them."""
    d_model: int = 0
    """0: all of it."""
    precision: str = ""
    """Of the matrices, one of PRECISIONS; empty: as the model is stored or, where that is not served, the most precise
    that is."""

    def __post_init__(self) -> None:
        if not are_whole(self.widths, 0) or not any(self.widths):
            raise LtsRayError(f"a submodel has one whole width per layer, not all of them 0; got {list(self.widths)}")
        if self.heads and not (len(self.heads) == len(self.widths) and are_whole(self.heads, 1)):
            raise LtsRayError(f"a submodel's heads are one positive whole number per layer; got {list(self.heads)}")
        if not are_whole((self.d_model,), 0):
            raise LtsRayError(f"a submodel's d_model is a positive whole number; got {self.d_model!r}")
        if self.precision not in ("", *PRECISIONS):
            raise LtsRayError(f"a submodel's precision is one of {', '.join(PRECISIONS)}; got {self.precision!r}")

    @property
    def text(self) -> str:
        """What a model's `submodel` parses: the widths, with what else the submodel has less of."""
        layers = [str(width) for width in self.widths]
        if self.heads:
            layers = [f"{width}/{heads}" for width, heads in zip(layers, self.heads, strict=True)]
        rest = (str(self.d_model) if self.d_model else "", self.precision)
        return "@".join([",".join(layers), *filter(None, rest)])

    def is_within(self, other: Submodel) -> bool:
        """Whether it has nothing that `other`, of the same model, has not."""
        return (
            all(mine <= theirs for mine, theirs in zip(self.widths, other.widths, strict=True))
            and (not other.heads or (bool(self.heads) and all(map(int.__le__, self.heads, other.heads))))
            and (not other.d_model or 0 < self.d_model <= other.d_model)
            and _place(self.precision) >= _place(other.precision)
        )

    def to_json(self) -> list[int] | dict[str, Any]:
        """The widths alone where nothing else is narrower."""
        return self.fields() if self.heads or self.d_model or self.precision else list(self.widths)

    def fields(self) -> dict[str, Any]:
        """As keys of a record: `widths`, and `heads`, `d_model` and `precision` where it has less."""
        rest = {"heads": list(self.heads), "d_model": self.d_model, "precision": self.precision}
        return {"widths": list(self.widths), **{key: value for key, value in rest.items() if value}}

    @classmethod
    def from_json(cls, value: object) -> Submodel:
        rest: dict[str, Any] = {}
        widths: Any = value
        if isinstance(value, Mapping) and "widths" in value and value.keys() <= FIELDS:
            rest = dict(value)
            widths = rest.pop("widths")
        heads = rest.pop("heads", [])
        for numbers in (widths, heads):
            if not isinstance(numbers, Sequence) or isinstance(numbers, str):
                raise LtsRayError(f"a submodel is a list of widths, or an object with such a list; got {value!r}")
        return cls(tuple(widths), heads=tuple(heads), **rest)


def _place(precision: str) -> int:
    """The larger, the less precise."""
    return PRECISIONS.index(precision) if precision else 0


def are_whole(values: Sequence[object], least: int) -> bool:
    """Whether all are whole numbers of at least `least`."""
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= least for value in values)
