"""The space of one backbone's architectures: how many layers, how wide, and for each layer its heads and FFN neurons.

What differs between backbones is data: the ranges, and functions that count parameters. `encoder_decoder` has those of
two stacks of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Protocol

import numpy as np

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.spaces.depth_moments import depth_moments
from lts_ray.spaces.ranges import Ranges
from lts_ray.spaces.search_space import Gene, pick


class TotalParams(Protocol):
    def __call__(self, architecture: Architecture, *, vocab_size: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class BackboneSpace:
    name: str
    backbone: str
    """Which model is built."""
    ranges: Ranges
    count_decoder_params: Callable[[Architecture], int] | None = None
    """Of the decoder's layers, without embeddings; None: there is no decoder."""
    count_encoder_params: Callable[[Architecture], int] | None = None
    """Of the encoder's; None: there is no encoder."""
    count_total_params: TotalParams
    vocab_size: int
    """Of the published models, for counting all parameters."""

    @property
    def can_decode(self) -> bool:
        """Whether its models generate token by token; an encoder reads a sequence in one pass, and that is all."""
        return self.count_decoder_params is not None

    @property
    def size(self) -> int:
        """Candidates that keep the rule on d_inner."""
        return sum(self.ranges.stacks(d_model) for d_model in self.ranges.d_model)

    @property
    def genes(self) -> Sequence[Gene]:
        """n_layer and d_model, then those of the layers."""
        ranges = self.ranges
        shape = [Gene(name="n_layer", choices=ranges.n_layer), Gene(name="d_model", choices=ranges.d_model)]
        return [*shape, *ranges.layer_genes()]

    def from_genes(self, values: Sequence[int]) -> Architecture:
        n_layer, d_model, *layers = values
        return self.architecture(d_model, self.ranges.from_layer_genes(n_layer, layers))

    def to_genes(self, candidate: Architecture) -> Mapping[str, int]:
        shape = {"n_layer": candidate.n_layer, "d_model": candidate.d_model}
        return {**shape, **self.ranges.to_layer_genes(candidate.stacks[0])}

    def seeds(self) -> Sequence[Architecture]:
        """The smallest and the largest: they span what a front can reach."""
        ranges = self.ranges
        ends = [(ranges.d_model[end], ranges.extreme(end, ranges.d_model[end])) for end in (0, -1)]
        return [self.architecture(d_model, stack, stack) for d_model, stack in ends]

    def listing(self) -> None:
        return None

    def sample(self, rng: np.random.Generator) -> Architecture:
        n_layer, d_model = pick(self.ranges.n_layer, rng), pick(self.ranges.d_model, rng)
        return self.architecture(d_model, self.ranges.sample(n_layer, d_model, rng))

    def mutate(self, candidate: Architecture, rng: np.random.Generator, probability: float) -> Architecture:
        ranges = self.ranges
        n_layer = pick(ranges.n_layer, rng) if rng.random() < probability else candidate.n_layer
        d_model = pick(ranges.d_model, rng) if rng.random() < probability else candidate.d_model
        return self.architecture(d_model, ranges.mutate(candidate.stacks[0], n_layer, d_model, rng, probability))

    def crossover(self, first: Architecture, second: Architecture, rng: np.random.Generator) -> Architecture:
        parents = (first, second)

        def either() -> Architecture:
            return parents[int(rng.integers(2))]

        n_layer, d_model = either().n_layer, either().d_model
        return self.architecture(d_model, self.ranges.crossover([parent.stacks[0] for parent in parents], n_layer, rng))

    def contains(self, candidate: Architecture) -> bool:
        ranges, d_model = self.ranges, candidate.d_model
        return (
            d_model in ranges.d_model
            and (candidate.d_embed, candidate.div_val) == (d_model, ranges.div_val)
            and ranges.contains(candidate.stacks[0], d_model)
            and candidate.encoder is None
        )

    def features(self, candidate: Architecture) -> Sequence[float]:
        return (
            log(candidate.d_model),
            log(candidate.n_layer),
            log(self.decoder_params(candidate)),
            *stack_moments(candidate.stacks[0]),
        )

    def stack_params(self, candidate: Architecture) -> Mapping[str, int]:
        """`encoder_params` and `decoder_params`, of the stacks that the backbone has; without embeddings.

        Raises LtsRayError for an architecture with other stacks.
        """
        if candidate.encoder is not None and (self.count_encoder_params is None or self.count_decoder_params is None):
            raise LtsRayError(f"the space {self.name} has one stack of layers; leave out the architecture's encoder")
        counts = {"encoder_params": self.count_encoder_params, "decoder_params": self.count_decoder_params}
        return {name: count(candidate) for name, count in counts.items() if count is not None}

    def decoder_params(self, candidate: Architecture) -> int:
        """Of all stacks together (LTS, section 3 and appendix J)."""
        return sum(self.stack_params(candidate).values())

    def to_json(self, candidate: Architecture) -> dict[str, Any]:
        return candidate.to_json()

    def from_json(self, value: Any) -> Architecture:
        candidate = Architecture.from_json(value)
        if not self.contains(candidate):
            raise LtsRayError(f"{candidate.to_json()} is not in the space {self.name}")
        return candidate

    def architecture(self, d_model: int, own: Stack, encoder: Stack | None = None) -> Architecture:
        """Of that width, with these layers; a backbone of one stack has no use for an encoder's."""
        return Architecture(
            d_model=d_model, n_head=own.n_head, d_inner=own.d_inner, d_embed=d_model, div_val=self.ranges.div_val
        )


def stack_moments(stack: Stack) -> tuple[float, ...]:
    """How neurons and heads are spread over the layers, by their logarithms."""
    return tuple(moment for column in (stack.d_inner, stack.n_head) for moment in depth_moments(list(map(log, column))))
