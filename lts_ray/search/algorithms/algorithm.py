"""The seam between a search and the algorithm that chooses: propose candidates, observe what they gave.

An algorithm sees results in the order in which it proposed their candidates, and proposes again when all but the last
`lag` of them are in. In which order evaluations finish therefore changes nothing: every algorithm is deterministic,
and a log of results in any order is enough to come back to the same state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Generic, Protocol

from lts_ray.pareto import Objectives
from lts_ray.spaces.search_space import Candidate


@dataclass(frozen=True, kw_only=True)
class Observation(Generic[Candidate]):
    candidate: Candidate
    objectives: Mapping[str, Objectives]
    """By target, minimised; empty if the evaluation failed."""
    feasible: AbstractSet[str]
    """Targets whose limits it keeps."""


class Algorithm(Protocol[Candidate]):
    @property
    def lag(self) -> int:
        """How many of its latest proposals it does without the results of; 0 waits for all."""
        ...

    def propose(self, count: int, seen: AbstractSet[Candidate]) -> Sequence[Candidate]:
        """At least one and at most `count` candidates, none of them in `seen`; none at all if there is nothing new."""
        ...

    def observe(self, observation: Observation[Candidate]) -> None:
        """Take in a result; called once for each proposal, in their order."""
        ...
