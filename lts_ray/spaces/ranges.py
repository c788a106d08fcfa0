"""The values that a backbone's architectures may have, and one stack of layers drawn, changed and combined from them.

Where layers are alike, the first one stands for all. A layer that a child has and its parent has not is drawn anew: no
genes are kept for layers that are not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lts_ray.architecture import Stack
from lts_ray.spaces.search_space import Gene, pick

COLLAPSE = 1.7
"""d_inner is at least int(1.7 · d_model): narrower FFNs fail to train (LTS, section 3)."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The values that may be searched, ascending."""

    n_layer: tuple[int, ...]
    d_model: tuple[int, ...]
    n_head: tuple[int, ...]
    d_inner: tuple[int, ...]
    div_val: int
    """Of the embedding, as in an `Architecture`."""
    per_layer: bool = True
    """Whether n_head and d_inner differ from layer to layer."""

    def d_inner_for(self, d_model: int) -> tuple[int, ...]:
        return tuple(width for width in self.d_inner if width >= int(COLLAPSE * d_model))

    def stacks(self, d_model: int) -> int:
        """How many there are that keep the rule on d_inner."""
        choices = len(self.n_head) * len(self.d_inner_for(d_model))
        return sum(choices**n_layer for n_layer in self.n_layer) if self.per_layer else choices * len(self.n_layer)

    def layer_genes(self, prefix: str = "") -> list[Gene]:
        """n_head and d_inner of every layer that there can be (of one, if all are alike)."""
        return [
            Gene(name=f"{prefix}{name}_{layer}", choices=choices)
            for layer in range(self.n_layer[-1] if self.per_layer else 1)
            for name, choices in (("n_head", self.n_head), ("d_inner", self.d_inner))
        ]

    def from_layer_genes(self, n_layer: int, values: Sequence[int]) -> Stack:
        """values: of `layer_genes`, in their order; those of layers past n_layer change nothing."""
        kept = list(values) if self.per_layer else [*values] * n_layer
        return Stack(n_head=tuple(kept[0 : 2 * n_layer : 2]), d_inner=tuple(kept[1 : 2 * n_layer : 2]))

    def to_layer_genes(self, stack: Stack, prefix: str = "") -> Mapping[str, int]:
        genes = {}
        for layer in range(stack.n_layer if self.per_layer else 1):
            genes[f"{prefix}n_head_{layer}"] = stack.n_head[layer]
            genes[f"{prefix}d_inner_{layer}"] = stack.d_inner[layer]
        return genes

    def extreme(self, end: int, d_model: int) -> Stack:
        """The smallest stack (end 0) or the largest one (end -1) of that width."""
        n_layer = self.n_layer[end]
        return Stack(n_head=(self.n_head[end],) * n_layer, d_inner=(self.d_inner_for(d_model)[end],) * n_layer)

    def sample(self, n_layer: int, d_model: int, rng: np.random.Generator) -> Stack:
        return self._stack([self._layer(d_model, rng) for _ in range(n_layer)])

    def mutate(self, stack: Stack, n_layer: int, d_model: int, rng: np.random.Generator, probability: float) -> Stack:
        """`n_layer` layers for a child of that d_model."""
        layers = []
        for index in range(n_layer):
            n_head, d_inner = self._layer(d_model, rng)
            if index < stack.n_layer:
                n_head = n_head if rng.random() < probability else stack.n_head[index]
                d_inner = d_inner if rng.random() < probability else stack.d_inner[index]
            layers.append((n_head, d_inner))
        return self._stack(layers)

    def crossover(self, parents: Sequence[Stack], n_layer: int, rng: np.random.Generator) -> Stack:
        layers = []
        for index in range(n_layer):
            having = [stack for stack in parents if index < stack.n_layer]
            heads_from, inner_from = (having[int(rng.integers(len(having)))] for _ in range(2))
            layers.append((heads_from.n_head[index], inner_from.d_inner[index]))
        return self._stack(layers)

    def contains(self, stack: Stack, d_model: int) -> bool:
        return (
            stack.n_layer in self.n_layer
            and set(stack.n_head) <= set(self.n_head)
            and set(stack.d_inner) <= set(self.d_inner_for(d_model))
            and (self.per_layer or len(set(stack.n_head)) == len(set(stack.d_inner)) == 1)
        )

    def _layer(self, d_model: int, rng: np.random.Generator) -> tuple[int, int]:
        return pick(self.n_head, rng), pick(self.d_inner_for(d_model), rng)

    def _stack(self, layers: Sequence[tuple[int, int]]) -> Stack:
        if not self.per_layer:
            layers = [layers[0]] * len(layers)
        return Stack(n_head=tuple(n_head for n_head, _ in layers), d_inner=tuple(d_inner for _, d_inner in layers))


DESCRIBED = Ranges(
    n_layer=tuple(range(2, 17)),
    d_model=tuple(range(128, 1025, 64)),
    n_head=(2, 4, 8),
    d_inner=tuple(range(128, 4097, 64)),
    div_val=1,
)
"""What LTS's section 3 says of its spaces: where no search of its own was published, those of its appendix J."""
