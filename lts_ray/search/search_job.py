"""A search with all that running it takes: what is measured, and what becomes of the results. Plain data, no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from lts_ray.measurement.workload import Workload
from lts_ray.search.search_plan import SearchPlan
from lts_ray.search.search_results import Results
from lts_ray.spaces.search_space import Candidate


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchJob(Generic[Candidate]):
    plan: SearchPlan[Candidate]
    workload: Workload
    results: Results[Candidate]
