"""How a search is run: frozen, checked, and written into its log so that only the same search resumes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from lts_ray.errors import LtsRayError
from lts_ray.frontier import Quality

LatencyRegime = Literal["prefill", "decode", "both"]


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

    evolution: None takes LTS's proportions, scaled to the evaluations.
    """

    evaluations: int = 200
    seed: int = 0
    quality: Quality = "validation_loss"
    latency: LatencyRegime = "decode"
    evolution: EvolutionSettings | None = None

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise LtsRayError(f"evaluations must be at least 1; got {self.evaluations}")
        if self.seed < 0:
            raise LtsRayError(f"seed must not be negative; got {self.seed}")
        if self.quality not in get_args(Quality):
            raise LtsRayError(f"unknown quality {self.quality!r}; known: {', '.join(get_args(Quality))}")
        if self.latency not in get_args(LatencyRegime):
            raise LtsRayError(f"unknown latency {self.latency!r}; known: {', '.join(get_args(LatencyRegime))}")

    @property
    def evolution_settings(self) -> EvolutionSettings:
        return EvolutionSettings.scaled_to(self.evaluations) if self.evolution is None else self.evolution

    def to_json(self) -> Mapping[str, Any]:
        return {**asdict(self), "evolution": asdict(self.evolution_settings)}
