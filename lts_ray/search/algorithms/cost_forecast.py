"""Objectives of architectures from a few measured ones: quality is computed, costs are learned layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lts_ray.architecture import Architecture
from lts_ray.pareto import Objectives
from lts_ray.proxies.architecture_cost import CostName, learn, predict
from lts_ray.proxies.layer_design import design
from lts_ray.search.algorithms.search_settings import LATENCIES, LatencyRegime
from lts_ray.spaces.backbone_space import BackboneSpace

Array = NDArray[np.float64]
LAYERS = 60
"""Layer configurations that are measured before anything is predicted."""


@dataclass(frozen=True, kw_only=True)
class CostForecast:
    """quality: computes the first objective. latency: which latencies are the next."""

    space: BackboneSpace
    quality: Callable[[Architecture], float]
    latency: LatencyRegime

    def design(self, rng: np.random.Generator) -> Sequence[Architecture]:
        return design(self.space, count=LAYERS, rng=rng)

    def fit(self, measured: Mapping[Architecture, Objectives]) -> Callable[[Sequence[Architecture]], Array]:
        architectures = list(measured)
        names: tuple[CostName, ...] = (*LATENCIES[self.latency], "peak_memory_mb")
        laws = {
            name: learn(name, architectures, [vector[index] for vector in measured.values()], self.space)
            for index, name in enumerate(names, start=1)
        }

        def predicted(candidates: Sequence[Architecture]) -> Array:
            columns = [np.array([self.quality(candidate) for candidate in candidates])]
            columns += [predict(name, law, candidates, self.space).mean for name, law in laws.items()]
            return np.stack(columns, axis=1)

        return predicted
