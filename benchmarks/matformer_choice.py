"""Which Mix'n'Match submodel of a size to take: that of the least slope, the best of some drawn, or a searched one.

The random and the searched choice look at the same number of submodels on one text; what all of them choose is compared
on another.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.spaces.equal_size import EqualSize
from lts_ray.spaces.least_slope import least_slope
from lts_ray.submodel import Submodel

LossOf = Callable[[Submodel], float]
SHOWN = 5
"""Submodels, drawn before any was looked at, that say what a mix is worth without a choice."""
PARENTS = 4
"""The best so far, from which evolution draws who is mutated."""
PATIENCE = 20
"""Attempts at a submodel that has not been looked at, before a way to make one counts as used up."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Among the `count` mixes of one size."""

    count: int
    least_slope: Submodel
    searched: Submodel
    random_best: Submodel
    drawn: tuple[Submodel, ...]

    @property
    def submodels(self) -> tuple[Submodel, ...]:
        return (self.least_slope, self.searched, self.random_best, *self.drawn)


def choose(
    config: MatFormerConfig,
    loss_of: LossOf,
    *,
    evaluations: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Chosen]:
    """At the size halfway between each two granularities; a model of one layer has none. progress: in sizes."""
    slope = least_slope(config)
    places = [slope.index(submodel) for submodel in config.trained.values()]
    middles = [slope[(low + high) // 2] for low, high in pairwise(places) if high - low > 1]
    known: dict[Submodel, float] = {}

    def remembered(submodel: Submodel) -> float:
        if submodel not in known:
            known[submodel] = loss_of(submodel)
        return known[submodel]

    found: list[Chosen] = []
    for middle in middles:
        progress(len(found), len(middles))
        space = EqualSize.like(config, middle)
        found.append(
            Chosen(
                count=space.count,
                least_slope=middle,
                drawn=tuple(draw(space, SHOWN, rng)),
                random_best=random_choice(space, remembered, evaluations=evaluations, rng=rng),
                searched=searched_choice(space, remembered, evaluations=evaluations, rng=rng),
            )
        )
    progress(len(found), len(middles))
    return found


def random_choice(space: EqualSize, loss_of: LossOf, *, evaluations: int, rng: np.random.Generator) -> Submodel:
    """The best of so many different ones, drawn uniformly; of all of them where there are no more."""
    return min(draw(space, evaluations, rng), key=lambda each: (loss_of(each), each))


def searched_choice(space: EqualSize, loss_of: LossOf, *, evaluations: int, rng: np.random.Generator) -> Submodel:
    """The best of so many different ones: a third drawn uniformly, the others mutated from the best so far."""
    losses = {each: loss_of(each) for each in draw(space, max(1, evaluations // 3), rng)}
    while len(losses) < min(evaluations, space.count):
        child = _child(space, losses, rng)
        losses[child] = loss_of(child)
    return min(losses, key=lambda each: (losses[each], each))


def draw(space: EqualSize, count: int, rng: np.random.Generator) -> list[Submodel]:
    """Different submodels, each as likely as any other, in the order drawn; all of them where there are no more."""
    if space.count <= count:
        every = list(space.listing())
        return [every[place] for place in rng.permutation(len(every))]
    found: dict[Submodel, None] = {}
    while len(found) < count:
        found[space.sample(rng)] = None
    return list(found)


def _child(space: EqualSize, losses: dict[Submodel, float], rng: np.random.Generator) -> Submodel:
    """One that has no loss yet: there has to be one."""
    parents = sorted(losses, key=lambda each: (losses[each], each))[:PARENTS]
    for _ in range(PATIENCE):
        child = space.mutate(parents[int(rng.integers(len(parents)))], rng)
        if child not in losses:
            return child
    return _fresh(space, losses, rng)


def _fresh(space: EqualSize, seen: Container[Submodel], rng: np.random.Generator) -> Submodel:
    while True:
        drawn = space.sample(rng)
        if drawn not in seen:
            return drawn
