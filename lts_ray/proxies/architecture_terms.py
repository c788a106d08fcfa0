"""What a cost of an architecture is a sum of, and what it depends on beside: the inputs of its cost model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import log
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from lts_ray.architecture import Architecture
from lts_ray.spaces.backbone_space import BackboneSpace

Array = NDArray[np.float64]
MEMORY = "peak_memory_mb"
"""The cost that is no time."""


def terms_of(name: str, space: BackboneSpace, architectures: Sequence[Architecture]) -> Array:
    """Of the cost of that name, [n, terms]."""
    of: Callable[[BackboneSpace, Architecture], tuple[float, ...]] = _memory_terms if name == MEMORY else _time_terms
    return np.array([of(space, architecture) for architecture in architectures], dtype=np.float64)


def _time_terms(space: BackboneSpace, architecture: Architecture) -> tuple[float, ...]:
    """What takes time, with the target's tokens and rows in the coefficients.

    Per layer, and apart for each stack: starting its kernels; norms, keys and values; attention's and the FFN's
    matrices; activations; scores. Around them: once, and the embedding's and the head's tables and projections.
    """
    d = architecture.d_model
    terms: list[float] = []
    for stack in architecture.stacks:
        n, neurons, heads = stack.n_layer, sum(stack.d_inner), sum(stack.n_head)
        terms += (n, n * d, n * d * d, d * neurons, neurons, heads)
    return (*terms, 1.0, d, d * d)


def _memory_terms(space: BackboneSpace, architecture: Architecture) -> tuple[float, ...]:
    """Weights; keys and values; and the activations of the layer that needs most, which the others then reuse."""
    d, n = architecture.d_model, architecture.n_layer
    weights, stacks = space.count_total_params(architecture, vocab_size=space.vocab_size), architecture.stacks
    widest, most_heads = max(max(stack.d_inner) for stack in stacks), max(max(stack.n_head) for stack in stacks)
    return (weights, n * d, d, widest, most_heads, 1.0)


def features_of(name: str, space: BackboneSpace, architectures: Sequence[Architecture]) -> Array:
    """What shapes and the place of the weights depend on, [n, features].

    Of layers that differ, all take time: their mean counts. The one that needs most memory decides on the peak.
    """
    of: Callable[[Iterable[float]], float] = max if name == MEMORY else fmean
    return np.array(
        [
            (
                log(architecture.d_model),
                *(
                    feature
                    for stack in architecture.stacks
                    for feature in (
                        log(stack.n_layer),
                        of(log(width) for width in stack.d_inner),
                        of(log(heads) for heads in stack.n_head),
                    )
                ),
                log(space.count_total_params(architecture, vocab_size=space.vocab_size)),
            )
            for architecture in architectures
        ]
    )
