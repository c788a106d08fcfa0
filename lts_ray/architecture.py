"""What a candidate is: plain frozen data. Modules are built from it where they are measured, and die there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
