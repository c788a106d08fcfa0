"""Runs a search in this process, one candidate after another: ask and tell in a loop. Ray does the same in `run`."""

from __future__ import annotations

from typing import Any, Protocol

from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.outcome import Evaluation
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Candidate


class Evaluator(Protocol):
    """Evaluates one candidate of the space it was made for; a failure is a value."""

    def evaluate(self, candidate: Any, /) -> Evaluation | Failed: ...


def drive(session: SearchSession[Candidate], evaluator: Evaluator) -> None:
    while (candidate := session.ask()) is not None:
        session.record(candidate, evaluator.evaluate(candidate))
