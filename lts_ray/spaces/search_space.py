"""What a search needs to know of a space: how to draw, change and combine candidates, and how large each is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

Candidate = TypeVar("Candidate", bound=Hashable)
"""Frozen data; equal candidates are the same candidate."""


@dataclass(frozen=True, kw_only=True)
class Gene:
    """One choice that makes up a candidate, for samplers that know nothing else of the space."""

    name: str
    choices: tuple[int, ...]


def pick(choices: Sequence[int], rng: np.random.Generator) -> int:
    """One of the choices, all equally likely."""
    return choices[int(rng.integers(len(choices)))]


class SearchSpace(Protocol[Candidate]):
    """Randomness comes from `rng` alone. Children may break the space's rules: ask `contains` before one is used."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """How many candidates there are."""
        ...

    @property
    def genes(self) -> Sequence[Gene]: ...

    def from_genes(self, values: Sequence[int]) -> Candidate:
        """The candidate of one value per gene, in their order; genes that it has no use for change nothing."""
        ...

    def to_genes(self, candidate: Candidate) -> Mapping[str, int]:
        """The values of the genes that the candidate has, by name."""
        ...

    def seeds(self) -> Sequence[Candidate]:
        """Candidates that every search evaluates first."""
        ...

    def listing(self) -> Sequence[Candidate] | None:
        """Every candidate, if they are few enough to look at each; else None."""
        ...

    def sample(self, rng: np.random.Generator) -> Candidate:
        """A random candidate that is in the space."""
        ...

    def mutate(self, candidate: Candidate, rng: np.random.Generator, probability: float) -> Candidate:
        """Redraw each gene with `probability`."""
        ...

    def crossover(self, first: Candidate, second: Candidate, rng: np.random.Generator) -> Candidate:
        """Take each gene from either parent, with equal chances."""
        ...

    def contains(self, candidate: Candidate) -> bool: ...

    def features(self, candidate: Candidate) -> Sequence[float]:
        """Numbers that cost and quality depend on smoothly, equally many for every candidate: to regress on."""
        ...

    def decoder_params(self, candidate: Candidate) -> int:
        """Parameters of all layers, an encoder's too, without embeddings: LTS's training-free stand-in for quality.

        It has this name, the paper's, wherever a candidate's size is written down.
        """
        ...

    def to_json(self, candidate: Candidate) -> Any: ...

    def from_json(self, value: Any) -> Candidate:
        """Raises LtsRayError for what is not a candidate of this space."""
        ...
