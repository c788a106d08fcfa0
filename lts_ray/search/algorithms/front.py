"""The all-time front of one target: every candidate ever evaluated that no other dominates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic

from lts_ray.pareto import Objectives, non_dominated
from lts_ray.spaces.search_space import Candidate


class Front(Generic[Candidate]):
    def __init__(self) -> None:
        self._members: dict[Candidate, Objectives] = {}

    @property
    def members(self) -> Mapping[Candidate, Objectives]:
        """In the order they were added."""
        return self._members

    def add(self, results: Mapping[Candidate, Objectives]) -> None:
        """Dominance is transitive, so what an earlier candidate was dropped for still dominates it."""
        merged = [*self._members.items(), *results.items()]
        self._members = {merged[index][0]: merged[index][1] for index in non_dominated([v for _, v in merged])}
