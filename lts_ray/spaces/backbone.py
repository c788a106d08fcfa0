"""The space of one backbone's architectures: how many layers, how wide, and for each layer its heads and FFN neurons.

What differs between backbones is data: the ranges, and two functions that count parameters. A layer that a child has
and its parent has not is drawn anew: no genes are kept for layers that are not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Protocol

import numpy as np

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.spaces.base import Gene
from lts_ray.spaces.depth import depth_moments

COLLAPSE = 1.7
"""d_inner is at least int(1.7 · d_model): narrower FFNs fail to train (LTS, section 3)."""


class TotalParams(Protocol):
    def __call__(self, architecture: Architecture, *, vocab_size: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The values that may be searched, ascending. per_layer: whether n_head and d_inner differ from layer to layer."""

    n_layer: tuple[int, ...]
    d_model: tuple[int, ...]
    n_head: tuple[int, ...]
    d_inner: tuple[int, ...]
    div_val: int
    per_layer: bool = True

    def d_inner_for(self, d_model: int) -> tuple[int, ...]:
        return tuple(each for each in self.d_inner if each >= int(COLLAPSE * d_model))


@dataclass(frozen=True, kw_only=True)
class BackboneSpace:
    """backbone: which model is built. vocab_size: of the published models, for counting all parameters."""

    name: str
    backbone: str
    ranges: Ranges
    count_decoder_params: Callable[[Architecture], int]
    count_total_params: TotalParams
    vocab_size: int

    @property
    def size(self) -> int:
        """Candidates that keep the rule on d_inner."""
        ranges = self.ranges
        layers = ranges.n_layer if ranges.per_layer else (1,) * len(ranges.n_layer)
        return sum(
            (len(ranges.n_head) * len(ranges.d_inner_for(d_model))) ** count
            for d_model in ranges.d_model
            for count in layers
        )

    @property
    def genes(self) -> Sequence[Gene]:
        """n_layer and d_model, then n_head and d_inner of every layer that there can be (of one, if all are alike)."""
        ranges = self.ranges
        shape = [Gene(name="n_layer", choices=ranges.n_layer), Gene(name="d_model", choices=ranges.d_model)]
        for layer in range(ranges.n_layer[-1] if ranges.per_layer else 1):
            shape.append(Gene(name=f"n_head_{layer}", choices=ranges.n_head))
            shape.append(Gene(name=f"d_inner_{layer}", choices=ranges.d_inner))
        return shape

    def from_genes(self, values: Sequence[int]) -> Architecture:
        n_layer, d_model, *layers = values
        if not self.ranges.per_layer:
            layers *= n_layer
        return self._architecture(d_model, layers[0 : 2 * n_layer : 2], layers[1 : 2 * n_layer : 2])

    def to_genes(self, candidate: Architecture) -> Mapping[str, int]:
        genes = {"n_layer": candidate.n_layer, "d_model": candidate.d_model}
        for layer in range(candidate.n_layer if self.ranges.per_layer else 1):
            genes |= {f"n_head_{layer}": candidate.n_head[layer], f"d_inner_{layer}": candidate.d_inner[layer]}
        return genes

    def seeds(self) -> Sequence[Architecture]:
        """The smallest and the largest: they span what a front can reach."""
        smallest, largest = (
            self._architecture(
                (d_model := self.ranges.d_model[end]),
                [self.ranges.n_head[end]] * self.ranges.n_layer[end],
                [self.ranges.d_inner_for(d_model)[end]] * self.ranges.n_layer[end],
            )
            for end in (0, -1)
        )
        return [smallest, largest]

    def listing(self) -> None:
        return None

    def sample(self, rng: np.random.Generator) -> Architecture:
        n_layer, d_model = _draw(self.ranges.n_layer, rng), _draw(self.ranges.d_model, rng)
        return self._with_layers(d_model, [self._layer(d_model, rng) for _ in range(n_layer)])

    def mutate(self, candidate: Architecture, rng: np.random.Generator, probability: float) -> Architecture:
        ranges = self.ranges
        n_layer = _draw(ranges.n_layer, rng) if rng.random() < probability else candidate.n_layer
        d_model = _draw(ranges.d_model, rng) if rng.random() < probability else candidate.d_model
        layers = []
        for index in range(n_layer):
            n_head, d_inner = self._layer(d_model, rng)
            if index < candidate.n_layer:
                n_head = n_head if rng.random() < probability else candidate.n_head[index]
                d_inner = d_inner if rng.random() < probability else candidate.d_inner[index]
            layers.append((n_head, d_inner))
        return self._with_layers(d_model, layers)

    def crossover(self, first: Architecture, second: Architecture, rng: np.random.Generator) -> Architecture:
        parents = (first, second)

        def either() -> Architecture:
            return parents[int(rng.integers(2))]

        n_layer, d_model = either().n_layer, either().d_model
        layers = []
        for index in range(n_layer):
            having = [each for each in parents if index < each.n_layer]
            heads_from, inner_from = (having[int(rng.integers(len(having)))] for _ in range(2))
            layers.append((heads_from.n_head[index], inner_from.d_inner[index]))
        return self._with_layers(d_model, layers)

    def contains(self, candidate: Architecture) -> bool:
        ranges, d_model = self.ranges, candidate.d_model
        return (
            candidate.n_layer in ranges.n_layer
            and d_model in ranges.d_model
            and (candidate.d_embed, candidate.div_val) == (d_model, ranges.div_val)
            and set(candidate.n_head) <= set(ranges.n_head)
            and set(candidate.d_inner) <= set(ranges.d_inner_for(d_model))
            and (ranges.per_layer or len(set(candidate.n_head)) == len(set(candidate.d_inner)) == 1)
        )

    def features(self, candidate: Architecture) -> Sequence[float]:
        return (
            log(candidate.d_model),
            log(candidate.n_layer),
            log(self.decoder_params(candidate)),
            *depth_moments([log(each) for each in candidate.d_inner]),
            *depth_moments([log(each) for each in candidate.n_head]),
        )

    def decoder_params(self, candidate: Architecture) -> int:
        return self.count_decoder_params(candidate)

    def to_json(self, candidate: Architecture) -> dict[str, Any]:
        return candidate.to_json()

    def from_json(self, value: Any) -> Architecture:
        candidate = Architecture.from_json(value)
        if not self.contains(candidate):
            raise LtsRayError(f"{candidate.to_json()} is not in the space {self.name}")
        return candidate

    def _layer(self, d_model: int, rng: np.random.Generator) -> tuple[int, int]:
        return _draw(self.ranges.n_head, rng), _draw(self.ranges.d_inner_for(d_model), rng)

    def _with_layers(self, d_model: int, layers: Sequence[tuple[int, int]]) -> Architecture:
        """Where layers are alike, the first one stands for all."""
        if not self.ranges.per_layer:
            layers = [layers[0]] * len(layers)
        return self._architecture(d_model, [n_head for n_head, _ in layers], [d_inner for _, d_inner in layers])

    def _architecture(self, d_model: int, n_head: Sequence[int], d_inner: Sequence[int]) -> Architecture:
        return Architecture(
            d_model=d_model,
            n_head=tuple(n_head),
            d_inner=tuple(d_inner),
            d_embed=d_model,
            div_val=self.ranges.div_val,
        )


def _draw(values: Sequence[int], rng: np.random.Generator) -> int:
    return values[int(rng.integers(len(values)))]
