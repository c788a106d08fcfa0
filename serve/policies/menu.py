"""The submodels on offer: those that a request may name, and those that a budget chooses among."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from lts_ray.errors import LtsRayError
from lts_ray.frontier import Frontier
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.submodel import Submodel


@dataclass(frozen=True, kw_only=True)
class Option:
    """One submodel."""

    name: str
    submodel: Submodel
    decoder_params: int
    loss: float | None
    """Of validation text, in nats a token; None where none was measured."""
    neurons: int
    """All that a step's cost sees of the submodel."""
    untrained: bool = False
    """Nothing vouches for it: it is served to those who name it, and no budget chooses it."""

    @classmethod
    def of(
        cls, config: DecoderConfig, submodel: Submodel, *, name: str, loss: float | None, untrained: bool = False
    ) -> Option:
        params, neurons = config.decoder_params(submodel), config.equivalent_neurons(submodel)
        return cls(
            name=name,
            submodel=submodel,
            decoder_params=params,
            loss=loss,
            neurons=neurons,
            untrained=untrained and submodel != config.universal,
        )

    @property
    def shortfall(self) -> float:
        """Higher is worse: the loss, or without one minus the parameters. For comparing options of one kind."""
        return -self.decoder_params if self.loss is None else self.loss


@dataclass(frozen=True, kw_only=True)
class Menu:
    universal: Option
    """What runs without a budget."""
    named: Mapping[str, Option]
    """What a request may pin."""
    elastic: tuple[Option, ...]
    """What budgets choose among: widest first, and the narrower the worse.

    An option that is no better than a narrower one would never be worth its cost, and is left out.
    """

    @cached_property
    def untrained(self) -> frozenset[str]:
        return frozenset(name for name, option in self.named.items() if option.untrained)

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
    config: DecoderConfig, validation_loss: Mapping[str, float], *, vouched: Collection[str] | None = None
) -> Menu:
    """The granularities, ranked by measured loss, or by size where not all have one.

    vouched: those that were trained; None: all.
    """
    vouched = config.trained.keys() if vouched is None else vouched
    measured = all(name in validation_loss for name in vouched)
    options = [
        Option.of(
            config,
            submodel,
            name=name,
            loss=validation_loss.get(name) if measured else None,
            untrained=name not in vouched,
        )
        for name, submodel in config.trained.items()
    ]
    return _menu(config, options, options)


def menu_of_frontier(
    config: DecoderConfig, frontier: Frontier, target: str | None, *, vouched: Collection[str] | None = None
) -> Menu:
    """Every point can be named; budgets choose among `target`'s front, or among all points where no target is known.

    vouched: granularities that were trained; None: all. A model that was trained at all of them vouches for what lies
    between them too, and a measured loss for what it was measured of.
    """
    trained = config.trained.keys() if vouched is None else vouched
    nested = config.trained.keys() <= set(trained)
    options = {
        point.submodel: Option.of(
            config,
            point.submodel,
            name=point.name,
            loss=point.loss,
            untrained=point.loss is None and not nested and point.name not in trained,
        )
        for point in frontier.points
    }
    points = frontier.points if target is None else frontier.front(target)
    return _menu(config, options.values(), [options[point.submodel] for point in points])


def _menu(config: DecoderConfig, named: Iterable[Option], candidates: Iterable[Option]) -> Menu:
    by_name = {option.name: option for option in named}
    full = next((option for option in by_name.values() if option.submodel == config.universal), None)
    if full is None:  # a frontier need not hold the universal model; it is always served
        full = Option.of(config, config.universal, name=list(config.trained)[-1], loss=None)
    by_name.setdefault(full.name, full)
    trained = [option for option in candidates if not option.untrained]
    return Menu(universal=full, named=by_name, elastic=_worth_their_cost(trained or [full]))


def _worth_their_cost(options: list[Option]) -> tuple[Option, ...]:
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.neurons, option.shortfall)):
        if not kept or option.shortfall < kept[-1].shortfall:
            kept.append(option)
    return tuple(reversed(kept))
