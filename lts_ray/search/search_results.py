"""What a search found: the candidates on a front of some target, or of all targets jointly, and the landmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol

from lts_ray.cost import Cost
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Candidate


@dataclass(frozen=True, kw_only=True)
class Found(Generic[Candidate]):
    """fronts: targets on whose front it lies. is_joint: on the front where the costs on all targets count at once."""

    name: str
    candidate: Candidate
    decoder_params: int
    loss: float
    costs: Mapping[str, Cost]
    fronts: tuple[str, ...]
    is_joint: bool


class Results(Protocol[Candidate]):
    """What differs between searching submodels and searching architectures, once the search has run."""

    @property
    def noun(self) -> str:
        """What a candidate is called, in the plural."""
        ...

    @property
    def file_name(self) -> str: ...

    @property
    def landmarks(self) -> Mapping[Candidate, str]:
        """Candidates to keep and to show in any case, with their names."""
        ...

    def names(self, candidates: Sequence[Candidate]) -> Mapping[Candidate, str]:
        """Short unique names."""
        ...

    def describe(self, candidate: Candidate) -> str:
        """What the candidate is, in one line."""
        ...

    def write(self, session: SearchSession[Candidate], folder: Path) -> None:
        """The file that the next step reads. Raises LtsRayError when nothing could be evaluated."""
        ...


def found(session: SearchSession[Candidate], results: Results[Candidate]) -> list[Found[Candidate]]:
    """Best quality first. Raises LtsRayError when nothing could be evaluated."""
    session.check_something_evaluated()
    evaluated, space = session.evaluated, session.plan.space
    fronts = {target.name: session.front(target.name) for target in session.plan.targets}
    joint = session.joint_front()
    kept = [
        each
        for each in evaluated
        if each in joint or each in results.landmarks or any(each in front for front in fronts.values())
    ]
    names = results.names(kept)
    points = [
        Found(
            name=names[each],
            candidate=each,
            decoder_params=space.decoder_params(each),
            loss=evaluated[each].loss,
            costs={name: measured.cost for name, measured in evaluated[each].measurements.items()},
            fronts=tuple(name for name, front in fronts.items() if each in front),
            is_joint=each in joint,
        )
        for each in kept
    ]
    return sorted(points, key=lambda point: (point.loss, point.name))
