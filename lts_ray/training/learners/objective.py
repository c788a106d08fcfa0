"""What training minimises: the joint loss (MatFormer, equation 2), or the loss of one granularity drawn for each step.

Which granularities a step trains, and with which λ, is a function of the step alone: workers agree, runs resume.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lts_ray.training.learners.weighting import Weighting, draw_probabilities, loss_weights

Kind = Literal["joint", "sampled"]
DRAWS = 1
"""Tells the stream of draws from the other streams of a run's seed."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Numbers by granularity come smallest first, sum to 1 and have no zero."""

    kind: Kind
    weights: Mapping[str, float]
    """Of `joint`: λ."""
    probabilities: Mapping[str, float]
    """Of `sampled`."""
    seed: int

    @classmethod
    def of(
        cls, kind: Kind, *, weights: Weighting, probabilities: Weighting, seed: int, granularities: Collection[str]
    ) -> Objective:
        """granularities: the model's, smallest first. Raises LtsRayError for numbers that do not fit them."""
        return cls(
            kind=kind,
            weights=loss_weights(weights, granularities),
            probabilities=draw_probabilities(probabilities, granularities),
            seed=seed,
        )

    def shares(self, step: int) -> dict[str, float]:
        """The granularities that learn in this step, widest first, and the λ of each; they sum to 1."""
        if self.kind == "sampled":
            return {self._drawn(step): 1.0}
        return {name: self.weights[name] for name in reversed(list(self.weights))}

    def _drawn(self, step: int) -> str:
        rng = np.random.default_rng([self.seed, step, DRAWS])
        names = list(self.probabilities)
        return names[int(rng.choice(len(names), p=list(self.probabilities.values())))]
