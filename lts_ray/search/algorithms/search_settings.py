"""How a search is run: frozen, checked, and written into its log so that only the same search resumes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from lts_ray.errors import LtsRayError
from lts_ray.frontier import Quality
from lts_ray.spaces.limits import Limits

LatencyRegime = Literal["prefill", "decode", "both"]
AlgorithmName = Literal["lts", "steady", "surrogate", "predicted", "nsga2", "nsga3", "tpe", "random"]

OBJECTIVE_NAMES: Mapping[LatencyRegime, tuple[str, ...]] = {
    "prefill": ("loss", "prefill_ms", "memory_mb"),
    "decode": ("loss", "decode_ms", "memory_mb"),
    "both": ("loss", "prefill_ms", "decode_ms", "memory_mb"),
}
"""What a candidate's objectives are on each target, all minimised."""


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """LTS's evolution (appendix B): a generation is population = parents + mutants + crossovers.

    The first generation evaluates `population` candidates, each later one its mutants and crossovers; the number of
    generations follows from the evaluations. patience: redraws of a duplicate before giving up on it.
    """

    population: int = 100
    parents: int = 20
    mutants: int = 40
    crossovers: int = 40
    mutation_probability: float = 0.3
    patience: int = 100

    def __post_init__(self) -> None:
        for name in ("population", "parents", "patience"):
            if getattr(self, name) < 1:
                raise LtsRayError(f"evolution: {name} must be at least 1; got {getattr(self, name)}")
        if min(self.mutants, self.crossovers) < 0 or self.mutants + self.crossovers < 1:
            raise LtsRayError(
                f"evolution: a generation needs mutants or crossovers; got {self.mutants} and {self.crossovers}"
            )
        if not 0 < self.mutation_probability <= 1:
            raise LtsRayError(f"evolution: mutation_probability must be in (0, 1]; got {self.mutation_probability}")

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


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """quality: what the first objective is. latency: which measured latency is an objective, or both as two.

    evaluations: candidates that are measured. predicted: candidates whose costs are predicted before those are chosen,
    by the algorithm of that name. in_flight: candidates evaluated at once at most, by an algorithm without generations;
    the next one is chosen without the results of those, however many nodes there are.
    evolution: None takes LTS's proportions, scaled to the evaluations.
    """

    evaluations: int = 200
    seed: int = 0
    quality: Quality = "validation_loss"
    latency: LatencyRegime = "decode"
    algorithm: AlgorithmName = "lts"
    predicted: int = 2_400
    in_flight: int = 4
    limits: Limits = field(default_factory=Limits)
    evolution: EvolutionSettings | None = None

    def __post_init__(self) -> None:
        for name in ("evaluations", "predicted", "in_flight"):
            if getattr(self, name) < 1:
                raise LtsRayError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.seed < 0:
            raise LtsRayError(f"seed must not be negative; got {self.seed}")
        if self.quality not in get_args(Quality):
            raise LtsRayError(f"unknown quality {self.quality!r}; known: {', '.join(get_args(Quality))}")
        if self.algorithm not in get_args(AlgorithmName):
            raise LtsRayError(f"unknown algorithm {self.algorithm!r}; known: {', '.join(get_args(AlgorithmName))}")
        if self.latency not in get_args(LatencyRegime):
            raise LtsRayError(f"unknown latency {self.latency!r}; known: {', '.join(get_args(LatencyRegime))}")

    @property
    def evolution_settings(self) -> EvolutionSettings:
        looked_at = self.predicted if self.algorithm == "predicted" else self.evaluations
        return EvolutionSettings.scaled_to(looked_at) if self.evolution is None else self.evolution

    @property
    def latencies(self) -> int:
        """How many latencies are objectives."""
        return len(self.objective_names) - 2

    @property
    def objective_names(self) -> tuple[str, ...]:
        return OBJECTIVE_NAMES[self.latency]

    def to_json(self) -> Mapping[str, Any]:
        return {**asdict(self), "evolution": asdict(self.evolution_settings)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SearchSettings:
        """Raises LtsRayError for what is not settings."""
        try:
            given = dict(value)
            evolution = EvolutionSettings(**given.pop("evolution"))
            return cls(**{**given, "limits": Limits(**given.get("limits", {}))}, evolution=evolution)
        except (KeyError, TypeError) as error:
            raise LtsRayError(f"a search's settings are not usable: {error!r}") from None
