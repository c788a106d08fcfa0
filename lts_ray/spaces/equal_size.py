"""The Mix'n'Match submodels of exactly one size: a granularity for each layer, so that the widths have a given sum.

Their number grows exponentially with depth, but the number of ways to reach a sum with the layers from some layer on is
a small table: it counts them, and draws one uniformly without listing them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.submodel import Submodel

REDRAWN = 3
"""Layers that a mutation draws anew; two alone could only swap where all sums of two granularities differ."""


class EqualSize:
    def __init__(self, choices: Sequence[Sequence[int]], neurons: int) -> None:
        """choices: the widths that each layer may have. neurons: what the chosen ones sum to."""
        self.choices = tuple(tuple(sorted(set(widths))) for widths in choices)
        self.neurons = neurons

    @classmethod
    def like(cls, config: MatFormerConfig, submodel: Submodel) -> EqualSize:
        """All mixes of the trained granularities that are as large as `submodel`."""
        columns = zip(*(submodel.widths for submodel in config.trained.values()), strict=True)
        return cls(list(columns), sum(config.check(submodel).widths))

    @cached_property
    def _ways(self) -> list[dict[int, int]]:
        """For each layer, sum → number of ways that this and all later layers reach it."""
        ways: list[dict[int, int]] = [{0: 1}]
        for widths in reversed(self.choices):
            longer: dict[int, int] = {}
            for total, count in ways[0].items():
                for width in widths:
                    longer[total + width] = longer.get(total + width, 0) + count
            ways.insert(0, longer)
        return ways

    @property
    def count(self) -> int:
        return self._ways[0].get(self.neurons, 0)

    def listing(self) -> Iterator[Submodel]:
        yield from (Submodel(widths) for widths in self._rest(0, self.neurons))

    def _rest(self, layer: int, neurons: int) -> Iterator[tuple[int, ...]]:
        if layer == len(self.choices):
            yield ()
            return
        for width, _ in self._next(layer, neurons):
            yield from ((width, *later) for later in self._rest(layer + 1, neurons - width))

    def _next(self, layer: int, neurons: int) -> list[tuple[int, int]]:
        """(width, number of ways to go on) of the widths of `layer` from which `neurons` can be reached."""
        later = self._ways[layer + 1]
        return [(width, later[neurons - width]) for width in self.choices[layer] if neurons - width in later]

    def sample(self, rng: np.random.Generator) -> Submodel:
        """Each is as likely as any other; there has to be one."""
        assert self.count, f"no choice of widths sums to {self.neurons}"
        widths: list[int] = []
        for layer in range(len(self.choices)):
            options = self._next(layer, self.neurons - sum(widths))
            total = sum(ways for _, ways in options)
            place = int(rng.choice(len(options), p=[ways / total for _, ways in options]))
            widths.append(options[place][0])
        return Submodel(tuple(widths))

    def mutate(self, submodel: Submodel, rng: np.random.Generator) -> Submodel:
        """A few layers, drawn anew so that the size stays; it may come out as it was."""
        layers = sorted(rng.permutation(len(self.choices))[:REDRAWN].tolist())
        part = EqualSize([self.choices[layer] for layer in layers], sum(submodel.widths[layer] for layer in layers))
        drawn = dict(zip(layers, part.sample(rng).widths, strict=True))
        return Submodel(tuple(drawn.get(layer, width) for layer, width in enumerate(submodel.widths)))
