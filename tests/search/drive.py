"""Runs a search in this process, one candidate after another: ask and tell in a loop. Ray does the same in `run`."""

from __future__ import annotations

from lts_ray.measurement.outcome import Evaluator
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Candidate


def drive(session: SearchSession[Candidate], evaluator: Evaluator) -> None:
    while (candidate := session.ask()) is not None:
        session.record(candidate, evaluator.evaluate(candidate))
