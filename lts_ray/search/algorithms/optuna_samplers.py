"""Optuna's samplers as algorithms of this search: other people's search on the same evaluations."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic

import numpy as np
import optuna

from lts_ray.pareto import Objectives
from lts_ray.search.algorithms.algorithm import Observation
from lts_ray.search.algorithms.ask_tell import joint
from lts_ray.search.algorithms.breeding import Breeder
from lts_ray.search.algorithms.search_settings import EvolutionSettings
from lts_ray.spaces.search_space import Candidate, SearchSpace


def _nsga3(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.NSGAIIISampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "nsga3": _nsga3,
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
PATIENCE = 100
"""Draws of candidates that are known or not in the space before a random one is taken."""


class Peer(Generic[Candidate]):
    """An Optuna study in memory. A repeated candidate gets the result it had, and another is asked for.

    A gene's choices are an integer parameter: their place in ascending order.
    """

    def __init__(
        self,
        sampler: str,
        space: SearchSpace[Candidate],
        *,
        targets: Sequence[str],
        n_objectives: int,
        lag: int = 0,
        rng: np.random.Generator,
    ) -> None:
        """n_objectives: of each target, quality included."""
        self.lag = lag
        self._space, self._targets = space, tuple(targets)
        self._genes = list(space.genes)
        self._random = Breeder(space, EvolutionSettings(), rng)
        count = 1 + (n_objectives - 1) * len(self._targets)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            directions=["minimize"] * count, sampler=SAMPLERS[sampler](int(rng.integers(2**31)))
        )
        self._open: deque[optuna.Trial | None] = deque()  # of the proposals that were not observed, in their order
        self._known: dict[Candidate, Objectives | None] = {}

    def propose(self, count: int, seen: AbstractSet[Candidate]) -> Sequence[Candidate]:
        for _ in range(PATIENCE):
            trial = self._study.ask()
            places = [trial.suggest_int(gene.name, 0, len(gene.choices) - 1) for gene in self._genes]
            values = [gene.choices[place] for gene, place in zip(self._genes, places, strict=True)]
            candidate = self._space.from_genes(values)
            if candidate not in seen and self._space.contains(candidate):
                self._open.append(trial)
                return [candidate]
            self._tell(trial, self._known.get(candidate))
        self._open.append(None)
        return self._random.first(1, seen)

    def observe(self, observation: Observation[Candidate]) -> None:
        vector = joint(observation.objectives, self._targets) if observation.objectives else None
        self._known[observation.candidate] = vector
        trial = self._open.popleft()
        if trial is not None:
            self._tell(trial, vector)

    def _tell(self, trial: optuna.Trial, vector: Objectives | None) -> None:
        if vector is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, list(vector))
