"""Quality after training, learned from a few trained architectures: a Gaussian process over eight facts about each.

Decoder parameters order architectures of very different size well and those of one d_model poorly, where depth, heads
and the embedding's width decide. The features say these apart, in units that hold for every backbone of this package;
how much each matters is fitted to the trained architectures alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean

import numpy as np

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.proxies.gaussian_process import Array, GaussianProcess, fit_process

FEATURES = ("d_model", "n_layer", "weights", "n_head", "is_split", "rank_0", "rank_1", "rank_2")
CLUSTERS = 3  # of the vocabulary, at which the embedding's rank is looked at; the published models have 3 and 4
FEWEST = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShotQuality:
    """Predicts the loss, in nats per token, that training would lead to."""

    process: GaussianProcess

    @classmethod
    def fit(cls, architectures: Sequence[Architecture], losses: Sequence[float]) -> FewShotQuality:
        """losses: in nats per token (the logarithm of the perplexity), of one training recipe on one data set."""
        if len(architectures) != len(losses) or len(losses) < FEWEST:
            raise LtsRayError(
                f"a few-shot proxy needs a loss for each of at least {FEWEST} trained architectures; "
                f"got {len(architectures)} architectures and {len(losses)} losses"
            )
        return cls(process=fit_process(_matrix(architectures), losses))

    def predict(self, architectures: Sequence[Architecture]) -> tuple[Array, Array]:
        """Mean and standard deviation of each one's loss after one training, whose own noise is in the latter."""
        if not architectures:
            return np.empty(0), np.empty(0)
        mean, sd = self.process.predict(_matrix(architectures))
        return mean, np.hypot(sd, self.process.noise)


def features(architecture: Architecture) -> tuple[float, ...]:
    """As named in FEATURES. Sizes as logarithms: loss falls as a power of each over a wide range.

    rank_i: what share of d_model the embedding of the vocabulary's cluster i, d_embed / div_val**i wide, can fill.
    is_split: div_val above 1 gives each cluster a projection of its own, whatever the widths. The layers of an
    encoder–decoder are those of both stacks.
    """
    d_model, div_val, stacks = architecture.d_model, architecture.div_val, architecture.stacks
    weights = sum(4 * d_model**2 + 2 * d_model * width for stack in stacks for width in stack.d_inner)
    return (
        log(d_model),
        log(sum(stack.n_layer for stack in stacks)),
        log(weights),
        fmean(log(heads) for stack in stacks for heads in stack.n_head),
        float(div_val > 1),
        *(min(0.0, log(architecture.d_embed / div_val**cluster / d_model)) for cluster in range(CLUSTERS)),
    )


def _matrix(architectures: Sequence[Architecture]) -> Array:
    return np.array([features(architecture) for architecture in architectures], dtype=np.float64)
