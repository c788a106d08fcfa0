"""Runs a search against a table instead of hardware, and says how much of the table's hypervolume it found, how soon.

The candidate that an algorithm asks for is taken as the nearest row that was not used yet, for all algorithms alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lts_ray.errors import LtsRayError
from lts_ray.pareto import bounds_of, relative_hypervolume
from lts_ray.replay.design_table import DesignTable
from lts_ray.replay.table_space import Places, TableSpace
from lts_ray.search.algorithms.ask_tell import AskTell
from lts_ray.search.algorithms.registry import make_algorithm
from lts_ray.search.algorithms.search_settings import AlgorithmName

TARGET = "table"
MARKS = (50, 100, 200, 400)
"""Numbers of evaluations after which the hypervolume is noted; the last evaluation is another."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    algorithm: AlgorithmName
    seed: int
    hypervolume: dict[int, float]
    """By number of evaluations, as a share of that of the whole table."""

    def to_json(self) -> dict[str, Any]:
        marks = {str(count): round(share, 6) for count, share in self.hypervolume.items()}
        return {"algorithm": self.algorithm, "seed": self.seed, "hypervolume": marks}


def replay(
    table: DesignTable,
    *,
    algorithm: AlgorithmName,
    evaluations: int,
    seed: int,
    show: Callable[[int], None] = lambda _: None,
) -> Replay:
    """One search. show: called with the number of evaluations so far.

    Objectives are scaled to [0, 1] by the whole table's range; the reference point is 1.0001.
    Raises LtsRayError when the table has fewer rows than `evaluations`.
    """
    if not 1 <= evaluations <= len(table.designs):
        raise LtsRayError(f"evaluations must be between 1 and the table's {len(table.designs)} rows; got {evaluations}")
    space = TableSpace(table)
    bounds = bounds_of(table.objectives)
    whole = relative_hypervolume(table.objectives, bounds)
    search: AskTell[Places] = AskTell(
        make_algorithm(
            algorithm,
            space,
            targets=(TARGET,),
            n_objectives=len(table.objective_names),
            evaluations=evaluations,
            rng=np.random.default_rng(seed),
        ),
        targets=(TARGET,),
        evaluations=evaluations,
        resolve=space.nearest,
    )
    vectors, marks = [], {}
    while (candidate := search.ask()) is not None:
        vector = table.objectives[space.row(candidate)]
        search.tell(candidate, {TARGET: vector})
        vectors.append(vector)
        if len(vectors) in MARKS or len(vectors) == evaluations:
            marks[len(vectors)] = relative_hypervolume(vectors, bounds) / whole
        show(len(vectors))
    return Replay(algorithm=algorithm, seed=seed, hypervolume=marks)
