"""Objectives of architectures from a few measured ones: quality is computed, costs are learned layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lts_ray.architecture import Architecture
from lts_ray.pareto import Objectives
from lts_ray.proxies.architecture_cost import CostName, Law, learn, predict
from lts_ray.proxies.layer_design import design
from lts_ray.search.algorithms.search_settings import LatencyRegime
from lts_ray.spaces.backbone_space import BackboneSpace

LAYERS = 60
"""Layer configurations that are measured before anything is predicted."""
COSTS: Mapping[LatencyRegime, tuple[CostName, ...]] = {
    "prefill": ("prefill_ms", "peak_memory_mb"),
    "decode": ("decode_ms", "peak_memory_mb"),
    "both": ("prefill_ms", "decode_ms", "peak_memory_mb"),
}


@dataclass(frozen=True, kw_only=True)
class CostForecast:
    """quality: computes the first objective. latency: which latencies are the next."""

    space: BackboneSpace
    quality: Callable[[Architecture], float]
    latency: LatencyRegime

    def design(self, rng: np.random.Generator) -> Sequence[Architecture]:
        return design(self.space, count=LAYERS, rng=rng)

    def fit(self, measured: Mapping[Architecture, Objectives]) -> CostPredictor:
        architectures = list(measured)
        laws = {
            name: learn(name, architectures, [vector[index] for vector in measured.values()], self.space)
            for index, name in enumerate(COSTS[self.latency], start=1)
        }
        return CostPredictor(forecast=self, laws=laws)


@dataclass(frozen=True, kw_only=True)
class CostPredictor:
    forecast: CostForecast
    laws: Mapping[CostName, Law]

    def predict(self, candidates: Sequence[Architecture]) -> NDArray[np.float64]:
        """[n, objectives]"""
        columns = [np.array([self.forecast.quality(candidate) for candidate in candidates])]
        for name, law in self.laws.items():
            columns.append(predict(name, law, candidates, self.forecast.space).mean)
        return np.stack(columns, axis=1)
