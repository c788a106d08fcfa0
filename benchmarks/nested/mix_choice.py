"""Which Mix'n'Match submodel of a size to take: that of the least slope, the best of some drawn, or a searched one.

The random and the searched choice look at the same number of submodels on one text; what all of them choose is compared
on another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, pairwise
from typing import Generic, TypeVar

import numpy as np

from benchmarks.common.turns import Progress
from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.spaces.equal_size import EqualSize
from lts_ray.spaces.least_slope import least_slope
from lts_ray.submodel import Submodel

Kind = TypeVar("Kind")
Other = TypeVar("Other")
LossOf = Callable[[Submodel], float]
SHOWN = 5
"""Submodels, drawn before any was looked at, that say what a mix is worth without a choice."""
PARENTS = 4
"""The best so far, from which evolution draws who is mutated."""
PATIENCE = 20
"""Attempts at a submodel that has not been looked at, before a way to make one counts as used up."""


@dataclass(frozen=True, kw_only=True)
class MixChoice(Generic[Kind]):
    """Ways to choose among the mixes of one size: as submodels, or as what these are worth."""

    count: int
    """Of the mixes."""
    least_slope: Kind
    searched: Kind
    random_best: Kind
    drawn: tuple[Kind, ...]
    """Some at random, without a choice."""

    @property
    def chosen(self) -> tuple[Kind, ...]:
        return (self.least_slope, self.searched, self.random_best, *self.drawn)

    def looked_up(self, values: Mapping[Kind, Other]) -> MixChoice[Other]:
        return MixChoice(
            count=self.count,
            least_slope=values[self.least_slope],
            searched=values[self.searched],
            random_best=values[self.random_best],
            drawn=tuple(values[mix] for mix in self.drawn),
        )


def choose(
    config: MatFormerConfig,
    loss_of: LossOf,
    *,
    evaluations: int,
    rng: np.random.Generator,
    progress: Progress = lambda done, total: None,
) -> list[MixChoice[Submodel]]:
    """At the size halfway between each two granularities; a model of one layer has none. progress: in sizes."""
    slope = least_slope(config)
    places = [slope.index(submodel) for submodel in config.trained.values()]
    middles = [slope[(low + high) // 2] for low, high in pairwise(places) if high - low > 1]
    remembered = cache(loss_of)
    choices: list[MixChoice[Submodel]] = []
    for middle in middles:
        progress(len(choices), len(middles))
        space = EqualSize.like(config, middle)
        choice = MixChoice(
            count=space.count,
            least_slope=middle,
            drawn=tuple(draw(space, SHOWN, rng)),
            random_best=random_choice(space, remembered, evaluations=evaluations, rng=rng),
            searched=searched_choice(space, remembered, evaluations=evaluations, rng=rng),
        )
        choices.append(choice)
    progress(len(choices), len(middles))
    return choices


def random_choice(space: EqualSize, loss_of: LossOf, *, evaluations: int, rng: np.random.Generator) -> Submodel:
    """The best of so many different ones, drawn uniformly; of all of them where there are no more."""
    return min(draw(space, evaluations, rng), key=lambda mix: (loss_of(mix), mix))


def searched_choice(space: EqualSize, loss_of: LossOf, *, evaluations: int, rng: np.random.Generator) -> Submodel:
    """The best of so many different ones: a third drawn uniformly, the others mutated from the best so far."""
    losses = {mix: loss_of(mix) for mix in draw(space, max(1, evaluations // 3), rng)}
    while len(losses) < min(evaluations, space.count):
        child = _child(space, losses, rng)
        losses[child] = loss_of(child)
    return min(losses, key=lambda mix: (losses[mix], mix))


def draw(space: EqualSize, count: int, rng: np.random.Generator) -> list[Submodel]:
    """Different submodels, each as likely as any other, in the order drawn; all of them where there are no more."""
    if space.count <= count:
        mixes = list(space.listing())
        return [mixes[place] for place in rng.permutation(len(mixes))]
    drawn: dict[Submodel, None] = {}
    while len(drawn) < count:
        drawn[space.sample(rng)] = None
    return list(drawn)


def _child(space: EqualSize, losses: dict[Submodel, float], rng: np.random.Generator) -> Submodel:
    """One that has no loss yet: there has to be one."""
    parents = sorted(losses, key=lambda mix: (losses[mix], mix))[:PARENTS]
    mutated = (space.mutate(parents[int(rng.integers(len(parents)))], rng) for _ in range(PATIENCE))
    return next(mix for mix in chain(mutated, (space.sample(rng) for _ in count())) if mix not in losses)
