"""The seam between a search and what predicts costs: which candidates to measure first, and what they say of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lts_ray.search.pareto import Objectives
from lts_ray.spaces.base import Candidate

Array = NDArray[np.float64]
Candidate_contra = TypeVar("Candidate_contra", contravariant=True)


class Predictor(Protocol[Candidate_contra]):
    def predict(self, candidates: Sequence[Candidate_contra]) -> Array:
        """Their objectives on the target that it was fitted for: [n, objectives]."""
        ...


class Forecast(Protocol[Candidate]):
    def design(self, rng: np.random.Generator) -> Sequence[Candidate]:
        """Candidates whose costs tell those of all others; the same for the same generator."""
        ...

    def fit(self, measured: Mapping[Candidate, Objectives]) -> Predictor[Candidate]:
        """What the objectives of `measured` candidates on one target tell of all others."""
        ...
