"""The submodels of one trained universal model: each layer's FFN width is a multiple of a fraction of the full one.

Where layers can be skipped, a width may be 0; where all can, the last is kept, so that no candidate is empty. Where
heads or d_model nest, there is a gene for each layer's heads and one for d_model, from as few as the smallest
granularity was trained with. Where several precisions are searched, there is one gene for that of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.elastic_config import STORED
from lts_ray.precision import WEIGHT_BYTES
from lts_ray.spaces.search_space import Gene, pick
from lts_ray.submodel import Submodel

STEPS = 8
"""The smallest step that contains the trained granularities 1/8, 1/4, 1/2 and 1."""

LISTED = 5_000
"""The most candidates that are worth listing."""


class MixNMatch:
    """A gene is one layer's width: k/steps of its full width, k = 1..steps; then the heads, d_model, the precision."""

    name = "mix-n-match"

    def __init__(self, config: DecoderConfig, steps: int = STEPS, precisions: Sequence[str] | None = None) -> None:
        """precisions: None: no submodel names one. Raises LtsRayError for one that the model does not run in."""
        narrowest = min(config.widths)
        if not 1 <= steps <= narrowest:
            raise LtsRayError(f"steps must be between 1 and the narrowest layer's {narrowest} neurons; got {steps}")
        self.config = config
        chosen = config.chosen_precisions(precisions)
        self._of_bits = {_bits(each): each for each in reversed(chosen)}
        self._named = [""] if precisions is None else ["" if each == STORED else each for each in chosen]
        self._genes = []
        needed = [layer for layer in range(config.n_layer) if config.may_skip(layer)] or [config.n_layer - 1]
        for layer, width in enumerate(config.widths):
            least = 1 if layer in needed else 0
            widths = tuple(round(k * width / steps) for k in range(least, steps + 1))  # as ElasticConfig.fraction
            self._genes.append(Gene(name=f"width_{layer}", choices=widths))
        smallest = next(iter(config.trained.values()))
        step = config.head_step
        for layer, full in enumerate(config.elastic_heads):
            least = smallest.heads[layer] if smallest.heads else full
            self._genes.append(Gene(name=f"heads_{layer}", choices=tuple(range(least, full + 1, step))))
        if full := config.elastic_d_model:
            least, trained = smallest.d_model or full, {named.d_model or full for named in config.trained.values()}
            shares = {round(k * full / steps) for k in range(1, steps + 1)} | trained
            self._genes.append(Gene(name="d_model", choices=tuple(sorted(share for share in shares if share >= least))))
        if len(chosen) > 1:
            self._genes.append(Gene(name="precision_bits", choices=tuple(self._of_bits)))

    @property
    def size(self) -> int:
        return math.prod(len(gene.choices) for gene in self._genes)

    @property
    def genes(self) -> Sequence[Gene]:
        return self._genes

    def from_genes(self, values: Sequence[int]) -> Submodel:
        layers = self.config.n_layer
        heads = tuple(values[layers : 2 * layers]) if self.config.elastic_heads else ()
        d_model = values[layers + len(heads)] if self.config.elastic_d_model else 0
        precision = self._of_bits[values[-1]] if len(self._named) > 1 else self._named[0]
        return self.config.check(Submodel(tuple(values[:layers]), heads=heads, d_model=d_model, precision=precision))

    def to_genes(self, candidate: Submodel) -> Mapping[str, int]:
        return {gene.name: value for gene, value in zip(self._genes, self._values(candidate), strict=True)}

    def _values(self, candidate: Submodel) -> tuple[int, ...]:
        """One for each gene, in their order."""
        config = self.config
        heads = (candidate.heads or config.elastic_heads) if config.elastic_heads else ()
        d_model = (candidate.d_model or config.elastic_d_model,) if config.elastic_d_model else ()
        precision = (_bits(config.precision_of(candidate)),) if len(self._named) > 1 else ()
        return (*candidate.widths, *heads, *d_model, *precision)

    def seeds(self) -> Sequence[Submodel]:
        """The trained granularities that the space has at each precision, largest first."""
        trained = reversed(list(self.config.trained.values()))
        each = [replace(submodel, precision=precision) for submodel in trained for precision in self._named]
        return [submodel for submodel in each if self.contains(submodel)]

    def listing(self) -> Sequence[Submodel] | None:
        if self.size > LISTED:
            return None
        return [self.from_genes(values) for values in product(*(gene.choices for gene in self._genes))]

    def sample(self, rng: np.random.Generator) -> Submodel:
        return self.from_genes([pick(gene.choices, rng) for gene in self._genes])

    def mutate(self, candidate: Submodel, rng: np.random.Generator, probability: float) -> Submodel:
        return self.from_genes(
            [
                pick(gene.choices, rng) if rng.random() < probability else value
                for value, gene in zip(self._values(candidate), self._genes, strict=True)
            ]
        )

    def crossover(self, first: Submodel, second: Submodel, rng: np.random.Generator) -> Submodel:
        pairs = zip(self._values(first), self._values(second), strict=True)
        return self.from_genes([mine if rng.random() < 0.5 else other for mine, other in pairs])

    def contains(self, candidate: Submodel) -> bool:
        try:
            checked = self.config.check(candidate)
        except LtsRayError:
            return False
        values = self._values(checked)
        return checked.precision in self._named and all(
            value in gene.choices for value, gene in zip(values, self._genes, strict=True)
        )

    def features(self, candidate: Submodel) -> Sequence[float]:
        """The neurons of all layers, which latency and memory follow, and each gene's own value.

        Of several precisions, latency and memory follow the bytes of the weights, which come first then.
        """
        values: tuple[float, ...] = (self.config.equivalent_neurons(candidate), *self._values(candidate))
        if len(self._named) > 1:
            size, layers = WEIGHT_BYTES[self.config.precision_of(candidate)], self.config.decoder_params(candidate)
            tables = self.config.parameters(candidate) - layers
            values = (layers * size + tables * max(size, WEIGHT_BYTES["int8"]), *values)
        return [math.log(value or 1) for value in values]

    def decoder_params(self, candidate: Submodel) -> int:
        return self.config.decoder_params(candidate)

    def to_json(self, candidate: Submodel) -> Any:
        return candidate.to_json()

    def from_json(self, value: Any) -> Submodel:
        candidate = Submodel.from_json(value)
        if not self.contains(candidate):
            raise LtsRayError(f"{value} is not in the space {self.name} of this model")
        return candidate


def _bits(precision: str) -> int:
    """Of a weight, without its share of a scale."""
    return int(8 * WEIGHT_BYTES[precision])
