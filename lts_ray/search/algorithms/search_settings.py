"""How a search is run: frozen, checked, and written into its log so that only the same search resumes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from lts_ray.errors import LtsRayError
from lts_ray.frontier import Quality
from lts_ray.precision import Precision
from lts_ray.record import Seed, record, record_json
from lts_ray.spaces.limits import Limits

Count = Annotated[int, Ge(1)]
MOST = 1_000_000
LatencyName = Literal["prefill_ms", "decode_ms"]
LatencyRegime = Literal["prefill", "decode", "both"]
AlgorithmName = Literal["lts", "steady", "surrogate", "predicted", "nsga2", "nsga3", "tpe", "random"]

LATENCIES: Mapping[LatencyRegime, tuple[LatencyName, ...]] = {
    "prefill": ("prefill_ms",),
    "decode": ("decode_ms",),
    "both": ("prefill_ms", "decode_ms"),
}
"""Those of a cost that are objectives."""


@record(what="evolution")
class EvolutionSettings:
    """LTS's evolution (appendix B): a generation is population = parents + mutants + crossovers.

    The first generation evaluates `population` candidates, each later one its mutants and crossovers; the number of
    generations follows from the evaluations.
    """

    population: Count = 100
    """Candidates of a generation."""
    parents: Count = 20
    """Of them, those that are kept from the front of all generations."""
    mutants: Annotated[int, Ge(0)] = 40
    """Of them, parents with some genes drawn anew."""
    crossovers: Annotated[int, Ge(0)] = 40
    """Of them, mixtures of two parents."""
    mutation_probability: Annotated[float, Gt(0), Le(1)] = 0.3
    """Of each choice that a candidate is made of."""
    patience: Count = 100
    """Draws in place of a duplicate before giving up on it."""

    def __post_init__(self) -> None:
        if not self.mutants + self.crossovers:
            raise LtsRayError("evolution: a generation needs mutants or crossovers; got 0 of both")

    @classmethod
    def scaled_to(cls, evaluations: int) -> EvolutionSettings:
        """LTS's proportions, smaller where the evaluations would not pay for six generations of full size."""
        population = min(cls.population, max(10, evaluations // 6))
        share = population / cls.population
        return cls(
            population=population,
            parents=max(2, round(cls.parents * share)),
            mutants=max(1, round(cls.mutants * share)),
            crossovers=max(1, round(cls.crossovers * share)),
        )


@record(what="settings")
class SearchSettings:
    """What a search does, apart from what it searches."""

    evaluations: Count = 200
    """Candidates that are measured."""
    seed: Seed = 0
    """The same seed asks for the same candidates."""
    quality: Quality = "validation_loss"
    """What the first objective is."""
    precisions: tuple[Precision, ...] | None = None
    """That submodels are searched in; None: as the model is stored."""
    latency: LatencyRegime = "decode"
    """Which measured latency is an objective, or both as two."""
    algorithm: AlgorithmName = "lts"
    """What chooses the next candidate: docs/search.md has all of them."""
    predicted: Annotated[int, Ge(1), Le(MOST)] = 2_400
    """Candidates whose costs the algorithm of that name predicts before it chooses those that are measured."""
    in_flight: Annotated[int, Ge(1), Le(MOST)] = 4
    """Candidates evaluated at once at most. An algorithm without generations chooses the next one without the results
    of those, however many nodes there are."""
    limits: Limits = field(default_factory=Limits)
    """What a result must keep to."""
    evolution: EvolutionSettings | None = None
    """None takes LTS's proportions, scaled to the evaluations."""

    @property
    def evolution_settings(self) -> EvolutionSettings:
        looked_at = self.predicted if self.algorithm == "predicted" else self.evaluations
        return EvolutionSettings.scaled_to(looked_at) if self.evolution is None else self.evolution

    @property
    def latencies(self) -> int:
        """How many latencies are objectives."""
        return len(LATENCIES[self.latency])

    @property
    def objective_names(self) -> tuple[str, ...]:
        """What a candidate's objectives are on each target, all minimised."""
        return ("loss", *LATENCIES[self.latency], "memory_mb")

    def to_json(self) -> dict[str, Any]:
        """With the evolution that is meant, so that a log says it."""
        return record_json(replace(self, evolution=self.evolution_settings))
