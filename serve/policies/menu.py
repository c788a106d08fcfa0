"""The submodels on offer: those that a request may name, and those that a budget chooses among."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier, FrontierPoint
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.elastic_config import STORED
from lts_ray.precision import PRECISIONS, READS, STORED_PLANE, WEIGHT_BYTES
from lts_ray.runtime.step_costs import Group, StepCosts
from lts_ray.submodel import Submodel

LIKELY_LOSS: Mapping[str, float] = {STORED: 0.0, "bfloat16": 0.001, "int8": 0.01, "int4": 0.1}
"""Nats a token that a precision is taken to lose where nothing measured them: to order options by, never to tell."""
SHAPE_BITS = 40
"""Of a shape's number: as many neurons as no model has."""
FEW, SOME, MANY = 1, 8, 64
"""Rows of a step: at the first its price is what it reads, at the last what it computes."""
GAIN = 0.02
"""By less than that share no measured step is faster than another: the rest is how measuring strays."""
Price = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One submodel."""

    name: str
    submodel: Submodel
    decoder_params: int
    loss: float | None
    """Of validation text, in nats a token; None where none was measured at this precision."""
    likely_loss: float | None = None
    """To compare with: the loss, or where only the stored model's is known what it is likely to be."""
    neurons: int
    """This and the planes are all that a step's cost sees of the submodel."""
    planes: int = STORED_PLANE
    """That its rows read, as precision.READS has them."""
    untrained: bool = False
    """Nothing vouches for it: it is served to those who name it, and no budget chooses it."""

    @classmethod
    def of(
        cls,
        config: DecoderConfig,
        submodel: Submodel,
        *,
        name: str,
        loss: float | None,
        stored_loss: float | None = None,
        untrained: bool = False,
    ) -> Option:
        """name: of its widths. stored_loss: what the same submodel loses as it is stored."""
        params, neurons = config.decoder_params(submodel), config.equivalent_neurons(submodel)
        likely = None if stored_loss is None else stored_loss + LIKELY_LOSS[submodel.precision or STORED]
        return cls(
            name=_named_at(name, submodel.precision),
            submodel=submodel,
            decoder_params=params,
            loss=loss,
            likely_loss=likely if loss is None else loss,
            neurons=neurons,
            planes=READS[submodel.precision or STORED],
            untrained=untrained and _as_stored(submodel) != config.universal,
        )

    @cached_property
    def shape(self) -> int:
        """Neurons and planes in one number, as forecasts take them: the neurons alone in the first precision."""
        return (self.planes ^ STORED_PLANE) << SHAPE_BITS | self.neurons

    def exceeds(self, other: Option) -> bool:
        """Whether a step of the other's rows costs more with one of this one's."""
        return self.neurons > other.neurons or bool(self.planes & ~other.planes)

    def group(self, rows: int, attended: int, logits: int) -> Group:
        return Group(self.neurons, rows, attended, logits, self.planes)

    @property
    def shortfall(self) -> float:
        """Higher is worse: the loss, or without one minus the parameters. For comparing options of one kind."""
        if self.likely_loss is not None:
            return self.likely_loss
        return LIKELY_LOSS[self.submodel.precision or STORED] - self.decoder_params


@dataclass(frozen=True, kw_only=True)
class Menu:
    universal: Option
    """What runs without a budget."""
    named: Mapping[str, Option]
    """What a request may pin. A name without a precision is the most precise of that name, whose own name says it."""
    elastic: tuple[Option, ...]
    """What budgets choose among: the best first, the cheapest last.

    An option is left out if another that is no worse costs no more, neither with few rows nor with many: it would never
    be worth its cost.
    """
    candidates: tuple[Option, ...] = ()
    """Of which these are the ones worth it."""

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """All that is served, each once."""
        return tuple({option.name: option for option in self.named.values()}.values())

    @cached_property
    def untrained(self) -> frozenset[str]:
        return frozenset(name for name, option in self.named.items() if option.untrained)

    @cached_property
    def by_planes(self) -> Mapping[int, Menu]:
        """The elastic options of each precision apart."""
        planes = dict.fromkeys(option.planes for option in self.elastic)
        return {
            each: replace(self, elastic=tuple([option for option in self.elastic if option.planes == each]))
            for each in planes
        }

    @cached_property
    def by_width(self) -> Menu:
        """The elastic options, those with most neurons first."""
        return replace(self, elastic=tuple(sorted(self.elastic, key=lambda option: -option.neurons)))

    def priced(self, costs: StepCosts) -> Menu:
        """The same with what steps cost here, in place of bytes and parameters. Of one precision it is the same."""
        if len({option.planes for option in self.candidates}) < 2:
            return self
        prices = {option.name: _price(option, costs) for option in self.candidates}
        return replace(self, elastic=_worth_their_cost(self.candidates, prices, gain=GAIN))

    @property
    def narrowest(self) -> Option:
        return self.elastic[-1]

    def floor(self, quality: str) -> float:
        """The loss that is meant: a submodel's by its name, or a number. Raises LtsRayError for neither."""
        loss = self.named[quality].loss if quality in self.named else None
        try:
            return float(quality) if loss is None else loss
        except ValueError:
            known = ", ".join(name for name, option in self.named.items() if option.loss is not None)
            raise LtsRayError(
                f"quality_floor must be a loss, or a submodel whose loss is known ({known}); got {quality!r}"
            ) from None


def menu_of_granularities(
    config: DecoderConfig,
    validation_loss: Mapping[str, float],
    *,
    vouched: Collection[str] | None = None,
    precisions: Sequence[str] = (STORED,),
) -> Menu:
    """The granularities at each precision, ranked by measured loss, or by size where not all have one.

    validation_loss: by granularity, `S@int4` for one at a precision. vouched: those that were trained; None: all.
    precisions: that are served, the most precise first.
    """
    vouched = config.trained.keys() if vouched is None else vouched
    measured = all(name in validation_loss for name in vouched)
    options = [
        Option.of(
            config,
            config.check(replace(submodel, precision=precision)),
            name=name,
            loss=validation_loss.get(_named_at(name, precision)) if measured else None,
            stored_loss=validation_loss.get(name) if measured else None,
            untrained=name not in vouched,
        )
        for precision in precisions
        for name, submodel in config.trained.items()
    ]
    return _menu(config, options, options, precisions)


def menu_of_frontier(
    config: DecoderConfig,
    frontier: Frontier,
    target: str | None,
    *,
    vouched: Collection[str] | None = None,
    precisions: Sequence[str] = (STORED,),
) -> Menu:
    """Every point can be named; budgets choose among `target`'s front, or among all points where no target is known.

    vouched: granularities that were trained; None: all. A model that was trained at all of them vouches for what lies
    between them too, and a measured loss for what it was measured of. precisions: that are served, the most precise
    first: points of others are left out, and those that name none run at the first.
    """
    trained = config.trained.keys() if vouched is None else vouched
    nested = config.trained.keys() <= set(trained)
    losses = {config.check(point.submodel): point.loss for point in frontier.points}

    def served(point: FrontierPoint) -> Submodel | None:
        precision = point.submodel.precision or (STORED if STORED in precisions else precisions[0])
        return config.check(replace(point.submodel, precision=precision)) if precision in precisions else None

    options: dict[Submodel, Option] = {}
    for point in frontier.points:
        submodel = served(point)
        if submodel is None or submodel in options:
            continue
        name, loss = point.name.partition("@")[0], losses.get(submodel)
        options[submodel] = Option.of(
            config,
            submodel,
            name=name,
            loss=loss,
            stored_loss=losses.get(_as_stored(submodel)),
            untrained=loss is None and not nested and name not in trained,
        )
    points = frontier.points if target is None else frontier.front(target)
    candidates = {submodel: options[submodel] for submodel in map(served, points) if submodel is not None}
    return _menu(config, options.values(), candidates.values(), precisions)


def _menu(
    config: DecoderConfig, served: Iterable[Option], candidates: Iterable[Option], precisions: Sequence[str]
) -> Menu:
    options = list(served)
    universal = config.check(replace(config.universal, precision=precisions[0]))
    full = next((option for option in options if option.submodel == universal), None)
    if full is None:  # a frontier need not hold the universal model; it is always served
        full = Option.of(config, universal, name=list(config.trained)[-1], loss=None)
        options.append(full)
    named: dict[str, Option] = {}
    for option in sorted(options, key=lambda option: PRECISIONS.index(option.submodel.precision or STORED)):
        named.setdefault(option.name.partition("@")[0], option)  # the most precise that has this name
    named |= {option.name: option for option in options}
    trained = tuple([option for option in candidates if not option.untrained]) or (full,)
    return Menu(
        universal=full, named=named, elastic=_worth_their_cost(trained, _sizes(config, trained)), candidates=trained
    )


def _sizes(config: DecoderConfig, options: Sequence[Option]) -> dict[str, Price]:
    """What stands for times where none were measured: the bytes that are read and, with many rows, the products."""
    if len({option.planes for option in options}) == 1:
        return {option.name: (option.neurons,) * 3 for option in options}
    found: dict[str, Price] = {}
    for option in options:
        params = option.decoder_params + config.embedding_params
        read = params * WEIGHT_BYTES[config.precision_of(option.submodel)]
        found[option.name] = read, read, params
    return found


def _price(option: Option, costs: StepCosts) -> Price:
    few, some, many = [costs.quiet_ms([option.group(rows, 0, min(rows, SOME))]) for rows in (FEW, SOME, MANY)]
    return few, some, many


def neurons_of(shape: int) -> int:
    return shape & ((1 << SHAPE_BITS) - 1)


def planes_of(shape: int) -> int:
    return shape >> SHAPE_BITS ^ STORED_PLANE


def _named_at(name: str, precision: str) -> str:
    return f"{name}@{precision}" if precision not in ("", STORED) else name


def _as_stored(submodel: Submodel) -> Submodel:
    return replace(submodel, precision="")


def _worth_their_cost(
    options: Sequence[Option], prices: Mapping[str, Price], *, gain: float = 0.0
) -> tuple[Option, ...]:
    """prices: by name, with few rows, with some and with many. The last one is the cheapest with some."""

    def order(option: Option) -> tuple[float, Price, int, str]:
        return option.shortfall, prices[option.name], option.neurons, option.name

    kept: list[Option] = []
    for option in sorted(options, key=order):
        rivals = [zip(prices[option.name], prices[other.name], strict=True) for other in kept]
        if all(any(mine < (1 - gain) * its for mine, its in pairs) for pairs in rivals):
            kept.append(option)
    cheapest = min(kept, key=lambda option: (prices[option.name][1], *order(option)[1:]))
    return tuple(kept[: kept.index(cheapest) + 1])
