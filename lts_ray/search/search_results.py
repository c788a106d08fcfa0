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
class KeptPoint(Generic[Candidate]):
    name: str
    candidate: Candidate
    decoder_params: int
    """Of all its layers, an encoder's among them."""
    loss: float
    """What was minimised as quality: a loss in nats per token, or minus the parameters."""
    costs: Mapping[str, Cost]
    """By target."""
    fronts: tuple[str, ...]
    """Targets on whose front it lies."""
    is_joint: bool
    """On the front where the costs on all targets count at once."""


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


def kept_points(session: SearchSession[Candidate], results: Results[Candidate]) -> list[KeptPoint[Candidate]]:
    """Best quality first. Raises LtsRayError when nothing could be evaluated."""
    session.check_something_evaluated()
    evaluated, space = session.evaluated, session.plan.space
    fronts = {target.name: session.front(target.name) for target in session.plan.targets}
    joint = session.joint_front()
    kept = [
        candidate
        for candidate in evaluated
        if candidate in joint or candidate in results.landmarks or any(candidate in front for front in fronts.values())
    ]
    names = results.names(kept)
    points = [
        KeptPoint(
            name=names[candidate],
            candidate=candidate,
            decoder_params=space.decoder_params(candidate),
            loss=evaluated[candidate].loss,
            costs={name: measured.cost for name, measured in evaluated[candidate].measurements.items()},
            fronts=tuple(name for name, front in fronts.items() if candidate in front),
            is_joint=candidate in joint,
        )
        for candidate in kept
    ]
    return sorted(points, key=lambda point: (point.loss, point.name))
