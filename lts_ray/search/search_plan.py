"""What a search is: all that must be the same for its log to be continued."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from lts_ray.errors import LtsRayError
from lts_ray.record import record_json
from lts_ray.search.algorithms.objective_forecast import ObjectiveForecast
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.spaces.search_space import Candidate, SearchSpace
from lts_ray.target import Target

MOST_EVALUATIONS = 1_000_000
"""A second each is eleven days, and the log 10 GB."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan(Generic[Candidate]):
    space: SearchSpace[Candidate]
    subject: Mapping[str, Any]
    """What candidates are of, and measured with: names and fingerprints, as JSON."""
    targets: tuple[Target, ...]
    settings: SearchSettings
    exact_quality: Callable[[Candidate], float] | None = None
    """Computes what stands for a candidate's loss; None where it is measured."""
    forecast: ObjectiveForecast[Candidate] | None = None
    """Predicts costs; None where they are measured only."""
    pooled_by: Callable[[Candidate], Hashable] | None = None
    """Among candidates alike in this a latency is nearly a sum over the genes, so that fronts are drawn from pooled
    ones; None: there are no such candidates."""

    def __post_init__(self) -> None:
        if self.settings.evaluations > MOST_EVALUATIONS:
            raise LtsRayError(
                f"settings.evaluations must be at most {MOST_EVALUATIONS:,}, however many candidates the space has "
                f"({self.space.name}: {self.space.size:,}); got {self.settings.evaluations:,}"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "space": self.space.name,
            "subject": dict(self.subject),
            "targets": [record_json(target) for target in self.targets],
            "settings": self.settings.to_json(),
        }
