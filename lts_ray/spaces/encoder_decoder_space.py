"""The space of a backbone with two stacks of one width: n_head and d_inner are the decoder's, `encoder` has its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np

from lts_ray.architecture import Architecture, Stack
from lts_ray.errors import LtsRayError
from lts_ray.spaces.backbone_space import BackboneSpace, stack_moments
from lts_ray.spaces.search_space import Gene, pick

PREFIX = "encoder_"
"""Of the encoder's genes."""


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderSpace(BackboneSpace):
    """Its ranges are of either stack."""

    are_alike: bool = False
    """Whether the encoder is as the decoder is, and so has no genes of its own."""

    @property
    def size(self) -> int:
        if self.are_alike:
            return super().size
        return sum(self.ranges.stacks(d_model) ** 2 for d_model in self.ranges.d_model)

    @property
    def genes(self) -> Sequence[Gene]:
        """The decoder's and the width, then the encoder's."""
        own = super().genes
        if self.are_alike:
            return own
        return [*own, Gene(name=f"{PREFIX}n_layer", choices=self.ranges.n_layer), *self.ranges.layer_genes(PREFIX)]

    def from_genes(self, values: Sequence[int]) -> Architecture:
        n_own = len(super().genes)
        own = super().from_genes(values[:n_own])
        if self.are_alike:
            return own
        n_layer, *layers = values[n_own:]
        return replace(own, encoder=self.ranges.from_layer_genes(n_layer, layers))

    def to_genes(self, candidate: Architecture) -> Mapping[str, int]:
        own = super().to_genes(candidate)
        if self.are_alike:
            return own
        encoder = encoder_of(candidate)
        return {**own, f"{PREFIX}n_layer": encoder.n_layer, **self.ranges.to_layer_genes(encoder, PREFIX)}

    def sample(self, rng: np.random.Generator) -> Architecture:
        own = super().sample(rng)
        if self.are_alike:
            return own
        return replace(own, encoder=self.ranges.sample(pick(self.ranges.n_layer, rng), own.d_model, rng))

    def mutate(self, candidate: Architecture, rng: np.random.Generator, probability: float) -> Architecture:
        own = super().mutate(candidate, rng, probability)
        if self.are_alike:
            return own
        ranges, encoder = self.ranges, encoder_of(candidate)
        n_layer = pick(ranges.n_layer, rng) if rng.random() < probability else encoder.n_layer
        return replace(own, encoder=ranges.mutate(encoder, n_layer, own.d_model, rng, probability))

    def crossover(self, first: Architecture, second: Architecture, rng: np.random.Generator) -> Architecture:
        own = super().crossover(first, second, rng)
        if self.are_alike:
            return own
        parents = [encoder_of(first), encoder_of(second)]
        return replace(own, encoder=self.ranges.crossover(parents, parents[int(rng.integers(2))].n_layer, rng))

    def contains(self, candidate: Architecture) -> bool:
        encoder = candidate.encoder
        return (
            encoder is not None
            and super().contains(replace(candidate, encoder=None))
            and self.ranges.contains(encoder, candidate.d_model)
            and (not self.are_alike or encoder == candidate.stacks[0])
        )

    def features(self, candidate: Architecture) -> Sequence[float]:
        own = super().features(candidate)
        if self.are_alike:
            return own
        encoder = encoder_of(candidate)
        return (*own, log(encoder.n_layer), *stack_moments(encoder))

    def architecture(self, d_model: int, own: Stack, encoder: Stack | None = None) -> Architecture:
        """Without an encoder's layers it has the decoder's."""
        return replace(super().architecture(d_model, own), encoder=own if encoder is None else encoder)


def encoder_of(architecture: Architecture) -> Stack:
    """Raises LtsRayError for an architecture of one stack."""
    if architecture.encoder is None:
        raise LtsRayError(
            'an encoder–decoder needs its encoder beside the decoder\'s n_head and d_inner, as in "encoder": '
            '{"n_layer": 2, "n_head": 4, "d_inner": 1024}'
        )
    return architecture.encoder
