"""How much each of several searches had found after 1, 2, … evaluations, all measured by the same box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lts_ray.errors import LtsRayError
from lts_ray.pareto import Objectives, bounds_of, non_dominated, relative_hypervolume
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Candidate


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One search's hypervolume on one target."""

    name: str
    algorithm: str
    values: tuple[float, ...]
    """After each evaluation. One that failed, or breaks a limit, adds nothing and was paid for."""
    is_this: bool
    """Of the search that the report is about."""


def hypervolume_curves(
    session: SearchSession[Candidate], others: Mapping[str, SearchSession[Candidate]], target: str
) -> tuple[Curve, ...]:
    """`session`'s curve, then those of `others`.

    The box is the one of `session.hypervolume`, spanned by the seeds; without seeds, that of everything any of the
    searches evaluated. Raises LtsRayError for a search of something else.
    """
    for name, other in others.items():
        _check_same(session, other, name)
    searches = dict(zip(_names(session, others), (session, *others.values()), strict=True))
    box = _box(session, others, target)
    return tuple(
        Curve(
            name=name,
            algorithm=search.plan.settings.algorithm,
            values=() if box is None else _values(search, target, box),
            is_this=search is session,
        )
        for name, search in searches.items()
    )


def _values(session: SearchSession[Any], target: str, box: tuple[Objectives, Objectives]) -> tuple[float, ...]:
    vectors = session.admitted(target)
    front: list[Objectives] = []
    values: list[float] = []
    for candidate in session.outcomes:
        vector = vectors.get(candidate)
        kept = front if vector is None else _with(front, vector)
        same = bool(values) and kept == front
        values.append(values[-1] if same else relative_hypervolume(kept, box))
        front = kept
    return tuple(values)


def _with(front: list[Objectives], vector: Objectives) -> list[Objectives]:
    merged = [*front, vector]
    return [merged[index] for index in non_dominated(merged)]


def _box(
    session: SearchSession[Any], others: Mapping[str, SearchSession[Any]], target: str
) -> tuple[Objectives, Objectives] | None:
    vectors = session.seeds(target) or [
        vector for search in (session, *others.values()) for vector in search.vectors(target).values()
    ]
    return bounds_of(vectors) if vectors else None


def _names(session: SearchSession[Any], others: Mapping[str, SearchSession[Any]]) -> list[str]:
    """Algorithm and seed; where these are the same twice, with the name that the other search was given by."""
    names: list[str] = []
    for key, search in [("this search", session), *others.items()]:
        settings = search.plan.settings
        name = f"{settings.algorithm}, seed {settings.seed}"
        names.append(name if name not in names else f"{name} ({key})")
    return names


def _check_same(session: SearchSession[Any], other: SearchSession[Any], name: str) -> None:
    mine, theirs = ({**search.plan.to_json(), **search.plan.settings.to_json()} for search in (session, other))
    different = [key for key in ("space", "subject", "targets", "quality", "latency") if mine[key] != theirs[key]]
    if different:
        raise LtsRayError(
            f"{name}: its {', '.join(different)} differ from this search's: compare searches of one and the same thing"
        )
