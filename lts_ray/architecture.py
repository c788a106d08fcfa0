"""What a candidate is: plain frozen data. Modules are built from it where they are measured, and die there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lts_ray.errors import LtsRayError


@dataclass(frozen=True, order=True)
class Submodel:
    """One FFN width (number of neurons) per layer of a universal model: a Mix'n'Match choice (MatFormer, section 2).

    A width of 0 leaves the whole layer out, in models that have layers to spare. heads: attention heads per layer;
    empty: all of them. d_model: 0: all of it. A universal model's `check` gives the form that names nothing whole.
    """

    widths: tuple[int, ...]
    heads: tuple[int, ...] = ()
    d_model: int = 0

    def __post_init__(self) -> None:
        if not _are_whole(self.widths, 0) or not any(self.widths):
            raise LtsRayError(f"a submodel has one whole width per layer, not all of them 0; got {list(self.widths)}")
        if self.heads and not (len(self.heads) == len(self.widths) and _are_whole(self.heads, 1)):
            raise LtsRayError(f"a submodel's heads are one positive whole number per layer; got {list(self.heads)}")
        if not _are_whole((self.d_model,), 0):
            raise LtsRayError(f"a submodel's d_model is a positive whole number; got {self.d_model!r}")

    @property
    def text(self) -> str:
        """What a model's `submodel` parses: the widths, with what else the submodel has less of."""
        layers = [str(width) for width in self.widths]
        if self.heads:
            layers = [f"{width}/{heads}" for width, heads in zip(layers, self.heads, strict=True)]
        return ",".join(layers) + (f"@{self.d_model}" if self.d_model else "")

    def is_within(self, other: Submodel) -> bool:
        """Whether it has nothing that `other`, of the same model, has not."""
        return (
            all(mine <= theirs for mine, theirs in zip(self.widths, other.widths, strict=True))
            and (not other.heads or (bool(self.heads) and all(map(int.__le__, self.heads, other.heads))))
            and (not other.d_model or 0 < self.d_model <= other.d_model)
        )

    def to_json(self) -> list[int] | dict[str, Any]:
        """The widths alone where nothing else is narrower."""
        return self.fields() if self.heads or self.d_model else list(self.widths)

    def fields(self) -> dict[str, Any]:
        """As keys of a record: `widths`, and `heads` and `d_model` where it has fewer."""
        rest = {"heads": list(self.heads), "d_model": self.d_model}
        return {"widths": list(self.widths), **{key: value for key, value in rest.items() if value}}

    @classmethod
    def from_json(cls, value: object) -> Submodel:
        if isinstance(value, Mapping) and "widths" in value and value.keys() <= {"widths", "heads", "d_model"}:
            widths, heads, d_model = value["widths"], value.get("heads", []), value.get("d_model", 0)
        else:
            widths, heads, d_model = value, [], 0
        for each in (widths, heads):
            if not isinstance(each, Sequence) or isinstance(each, str):
                raise LtsRayError(f"a submodel is a list of widths, or an object with such a list; got {value!r}")
        return cls(tuple(widths), heads=tuple(heads), d_model=d_model)


def _are_whole(values: Sequence[object], least: int) -> bool:
    return all(isinstance(each, int) and not isinstance(each, bool) and each >= least for each in values)


@dataclass(frozen=True, order=True, kw_only=True)
class Stack:
    """A stack of layers: attention heads and FFN neurons, one value per layer."""

    n_head: tuple[int, ...]
    d_inner: tuple[int, ...]

    def __post_init__(self) -> None:
        if not _are_whole((*self.n_head, *self.d_inner), 1):
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
