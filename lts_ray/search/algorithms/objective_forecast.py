"""The seam between a search and what predicts costs: which candidates to measure first, and what they say of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lts_ray.pareto import Objectives
from lts_ray.spaces.search_space import Candidate

Array = NDArray[np.float64]


class ObjectiveForecast(Protocol[Candidate]):
    def design(self, rng: np.random.Generator) -> Sequence[Candidate]:
        """Candidates whose costs tell those of all others; the same for the same generator."""
        ...

    def fit(self, measured: Mapping[Candidate, Objectives]) -> Callable[[Sequence[Candidate]], Array]:
        """What the objectives of `measured` candidates on one target tell of all others: theirs, [n, objectives]."""
        ...
