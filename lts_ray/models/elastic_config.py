"""What every universal model's configuration knows: which submodels it has, what they are called, how to read them.

A submodel has a width for each layer's FFN. Where a model nests its attention heads or its d_model too, a submodel may
have fewer of them: prefixes, as of the FFN (MatFormer, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from lts_ray.errors import LtsRayError
from lts_ray.precision import PRECISIONS
from lts_ray.submodel import Submodel

GRANULARITIES: Mapping[str, float] = {"S": 0.125, "M": 0.25, "L": 0.5, "XL": 1.0}
"""The trained FFN fractions (MatFormer, section 3)."""

STORED = "float32"
"""The precision that a submodel has which names none: what is stored, run in float32."""


def check_granularities(given: object, *, what: str = "granularities") -> None:
    """Raises LtsRayError for anything but growing fractions by name, the last of them 1; `what` is their place."""
    pairs = list(given.items()) if isinstance(given, Mapping) else []
    if not pairs or not all(isinstance(name, str) and type(value) in (int, float) for name, value in pairs):
        raise LtsRayError(f"{what} must be fractions by name, such as {{S: 0.25, XL: 1}}; got {given!r}")
    fractions = [value for _, value in pairs]
    if fractions != sorted(set(fractions)) or not all(0 < value <= 1 for value in fractions) or fractions[-1] != 1:
        raise LtsRayError(f"{what} must be growing fractions that end at 1; got {fractions}")


def check_shares(given: object, granularities: Mapping[str, float], *, what: str) -> None:
    """Of another axis by granularity, or None. Raises LtsRayError unless none of them shrinks and the last has all."""
    if given is None:
        return
    if not isinstance(given, Mapping) or not all(type(share) in (int, float) for share in given.values()):
        raise LtsRayError(f"{what} must be fractions by granularity, such as {{S: 0.5}}; got {given!r}")
    unknown = [str(name) for name in given if name not in granularities]
    if unknown:
        raise LtsRayError(f"{what} has unknown granularities {', '.join(unknown)}; known: {', '.join(granularities)}")
    shares = [given.get(name, 1) for name in granularities]
    if shares != sorted(shares) or not all(0 < share <= 1 for share in shares) or shares[-1] != 1:
        raise LtsRayError(f"{what} must be fractions that do not shrink and end at 1; got {shares}")


class ElasticConfig:
    """The base of frozen dataclasses that have `widths`, the full FFN width of each layer, and `granularities`.

    A submodel that has all heads, or all of d_model, does not name them: so equal submodels are equal data.
    """

    widths: tuple[int, ...]
    granularities: Mapping[str, float]

    @property
    def n_layer(self) -> int:
        return len(self.widths)

    @cached_property
    def universal(self) -> Submodel:
        return Submodel(self.widths)

    @cached_property
    def trained(self) -> Mapping[str, Submodel]:
        """The submodels that training optimises, by name, smallest first."""
        return {name: self.granularity(name) for name in self.granularities}

    def granularity(self, name: str) -> Submodel:
        """A model that nests more than its FFN says here how much of that `name` has."""
        return self.fraction(self.granularities[name])

    def fraction(self, value: float) -> Submodel:
        """That share of each layer's neurons, and all of the rest."""
        return Submodel(tuple(max(1, round(value * width)) for width in self.widths))

    @property
    def precisions(self) -> tuple[str, ...]:
        """That the model may run in, of PRECISIONS, the most precise first."""
        return (STORED,)

    def precision_of(self, submodel: Submodel) -> str:
        """What one runs in: what it names or, where it names none, what is stored if the model may run in that."""
        return submodel.precision or (STORED if STORED in self.precisions else self.precisions[0])

    def chosen_precisions(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        """Each once, the most precise first; None: what one runs in that names none.

        Raises LtsRayError for one that the model may not run in, or for no precision at all.
        """
        asked = (self.precision_of(self.universal),) if asked is None else asked
        unknown = [each for each in asked if each not in self.precisions]
        if unknown or not asked:
            known = ", ".join(self.precisions)
            raise LtsRayError(f"this model runs in {known}; precisions asks for {', '.join(unknown) or 'none'}")
        return tuple(each for each in self.precisions if each in asked)

    @property
    def elastic_heads(self) -> tuple[int, ...]:
        """All attention heads of each layer; empty where heads do not nest."""
        return ()

    @property
    def head_step(self) -> int:
        """Heads come and go by so many: those that share their keys and values."""
        return 1

    @property
    def elastic_d_model(self) -> int:
        """All of d_model; 0 where it does not nest."""
        return 0

    def may_skip(self, layer: int) -> str | None:
        """Why a submodel cannot leave out the layer (as one of width 0); None: it can."""
        return f"layer {layer} cannot have width 0: layers of this model are not skipped"

    def check(self, submodel: Submodel) -> Submodel:
        """`submodel` in the form that names nothing it has whole. Raises LtsRayError if this model does not have it."""
        if len(submodel.widths) != self.n_layer:
            raise LtsRayError(
                f"the submodel has {len(submodel.widths)} widths, but the model has {self.n_layer} layers"
            )
        for layer, (width, full) in enumerate(zip(submodel.widths, self.widths, strict=True)):
            if width > full:
                raise LtsRayError(f"layer {layer} has {full} neurons; the submodel asks for {width}")
            if width == 0 and full > 0 and (reason := self.may_skip(layer)):
                raise LtsRayError(reason)
        if not submodel.heads and not submodel.d_model and not submodel.precision:
            return submodel
        return Submodel(
            submodel.widths,
            heads=self._heads(submodel),
            d_model=self._d_model(submodel),
            precision=self._precision(submodel),
        )

    def _precision(self, submodel: Submodel) -> str:
        if submodel.precision and submodel.precision not in self.precisions:
            served = ", ".join(self.precisions)
            raise LtsRayError(f"this model runs in {served}; the submodel asks for {submodel.precision}")
        return "" if submodel.precision == STORED else submodel.precision

    def _heads(self, submodel: Submodel) -> tuple[int, ...]:
        full, step = self.elastic_heads, self.head_step
        if not submodel.heads or submodel.heads == full:
            return ()
        if not full:
            raise LtsRayError(f"the submodel asks for {list(submodel.heads)} heads, but this model's do not nest")
        for layer, (heads, most) in enumerate(zip(submodel.heads, full, strict=True)):
            if heads > most or heads % step:
                allowed = ", ".join(map(str, range(step, most + 1, step)))
                raise LtsRayError(f"layer {layer} can have {allowed} heads; the submodel asks for {heads}")
        return submodel.heads

    def _d_model(self, submodel: Submodel) -> int:
        full = self.elastic_d_model
        if submodel.d_model in (0, full):
            return 0
        if submodel.d_model > full:
            nested = f"has a d_model of {full}" if full else "has a d_model that does not nest"
            raise LtsRayError(f"this model {nested}; the submodel asks for {submodel.d_model}")
        return submodel.d_model

    def submodel(self, text: str) -> Submodel:
        """Parse `XL`, `0.5`, or one width or granularity per layer: `256,512,S,XL`.

        Where heads nest, a layer's width may be followed by its heads, `256/4,512/8,S,XL`; where d_model nests, all
        of it by its own value: `256,512@192`. Any of these may end with a precision that the model runs in: `S@int4`.
        Raises LtsRayError for anything else: an unknown name never means the universal model.
        """
        name = text.strip()
        if name in self.trained:
            return self.trained[name]
        layers, *marks = (part.strip() for part in name.split("@"))
        precision = marks.pop() if marks and marks[-1] in PRECISIONS else ""
        if len(marks) > 1 or not all(mark.isdecimal() for mark in marks):
            raise self._unknown(text)
        d_model = int(marks[0]) if marks else 0
        if layers in self.trained and not marks:
            return self.check(replace(self.trained[layers], precision=precision))
        if "," in layers or "/" in layers:
            parts = [part.strip() for part in layers.split(",")]
            if len(parts) != self.n_layer:
                raise LtsRayError(
                    f"the submodel {text!r} has {len(parts)} widths, but the model has {self.n_layer} layers"
                )
            columns = [self._layer(part, layer, text) for layer, part in enumerate(parts)]
            chosen = Submodel(
                tuple(width for width, _ in columns),
                heads=tuple(heads for _, heads in columns) if self.elastic_heads else (),
                d_model=d_model,
                precision=precision,
            )
            return self.check(chosen)
        try:
            value = float(layers)
        except ValueError:
            raise self._unknown(text) from None
        if not 0 < value <= 1:
            raise self._unknown(text)
        return self.check(Submodel(self.fraction(value).widths, d_model=d_model, precision=precision))

    def _layer(self, part: str, layer: int, text: str) -> tuple[int, int]:
        """Width and heads of what one layer's part says; 0 heads where they do not nest."""
        full = self.elastic_heads[layer] if self.elastic_heads else 0
        if part in self.trained:
            named = self.trained[part]
            return named.widths[layer], named.heads[layer] if named.heads else full
        width, marked, heads = map(str.strip, part.partition("/"))
        if marked and not self.elastic_heads:
            raise LtsRayError(f"the submodel {text!r} asks for {heads} heads, but this model's do not nest")
        if not width.isdecimal() or (marked and not heads.isdecimal()):
            raise self._unknown(text)
        return int(width), int(heads) if marked else full

    def _unknown(self, text: str) -> LtsRayError:
        names = ", ".join(self.granularities)
        return LtsRayError(
            f"unknown submodel {text!r}: use one of {names}, a fraction in (0, 1], "
            f"or {self.n_layer} widths such as {','.join(map(str, self.widths))}"
        )
