"""What a search needs to know of a space: how to draw, change and combine candidates, and how large each is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

Candidate = TypeVar("Candidate", bound=Hashable)
"""Frozen data; equal candidates are the same candidate."""


class SearchSpace(Protocol[Candidate]):
    """Every candidate that these methods return is in the space. Randomness comes from `rng` alone."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """How many candidates there are."""
        ...

    def seeds(self) -> Sequence[Candidate]:
        """Candidates that every search evaluates first."""
        ...

    def sample(self, rng: np.random.Generator) -> Candidate: ...

    def mutate(self, candidate: Candidate, rng: np.random.Generator, probability: float) -> Candidate:
        """Redraw each gene with `probability`."""
        ...

    def crossover(self, first: Candidate, second: Candidate, rng: np.random.Generator) -> Candidate:
        """Take each gene from either parent, with equal chances."""
        ...

    def contains(self, candidate: Candidate) -> bool: ...

    def decoder_params(self, candidate: Candidate) -> int:
        """Parameters without the embedding: LTS's training-free stand-in for quality."""
        ...

    def to_json(self, candidate: Candidate) -> Any: ...

    def from_json(self, value: Any) -> Candidate:
        """Raises LtsRayError for what is not a candidate of this space."""
        ...
