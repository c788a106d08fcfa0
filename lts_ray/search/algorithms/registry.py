"""Algorithms by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lts_ray.errors import LtsRayError
from lts_ray.search.algorithms.algorithm import Algorithm
from lts_ray.search.algorithms.evolution import Evolution, SteadyEvolution
from lts_ray.search.algorithms.objective_forecast import ObjectiveForecast
from lts_ray.search.algorithms.predicted import Predicted
from lts_ray.search.algorithms.search_settings import AlgorithmName, EvolutionSettings
from lts_ray.search.algorithms.surrogate import Surrogate
from lts_ray.spaces.search_space import Candidate, SearchSpace


def make_algorithm(
    name: AlgorithmName,
    space: SearchSpace[Candidate],
    *,
    targets: Sequence[str],
    n_objectives: int,
    evaluations: int,
    rng: np.random.Generator,
    lag: int = 0,
    evolution: EvolutionSettings | None = None,
    exact_quality: Callable[[Candidate], float] | None = None,
    limits: Sequence[float | None] | None = None,
    forecast: ObjectiveForecast[Candidate] | None = None,
    predicted: int = 2_400,
) -> Algorithm[Candidate]:
    """n_objectives: of each target. lag: see `Algorithm.lag`; LTS's generations have none.

    exact_quality, limits: see `Surrogate`. forecast, predicted: for "predicted", how and how many it predicts.
    Raises LtsRayError for "predicted" without a forecast.
    """
    settings = EvolutionSettings.scaled_to(evaluations) if evolution is None else evolution
    if name == "lts":
        return Evolution(space, settings=settings, rng=rng)
    if name == "steady":
        return SteadyEvolution(space, settings=settings, lag=lag, rng=rng)
    if name == "surrogate":
        return Surrogate(space, targets=targets, rng=rng, lag=lag, exact_quality=exact_quality, limits=limits)
    if name == "predicted":
        if forecast is None:
            raise LtsRayError("the algorithm 'predicted' needs a space of backbones: costs of submodels are measured")
        return Predicted(
            space,
            forecast,
            targets=targets,
            candidates=predicted,
            evolution=settings,
            limits=limits or (None,) * n_objectives,
            rng=rng,
        )
    from lts_ray.search.algorithms.optuna_samplers import Peer  # Optuna takes a second to import

    return Peer(name, space, targets=targets, n_objectives=n_objectives, lag=lag, rng=rng)
