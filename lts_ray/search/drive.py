"""Runs a search in this process, one candidate after another: ask and tell in a loop. Ray does the same in `run`."""

from __future__ import annotations

from lts_ray.measurement.evaluation import Evaluator
from lts_ray.search.session import SearchSession
from lts_ray.spaces.base import Candidate


def drive(session: SearchSession[Candidate], evaluator: Evaluator) -> None:
    while (candidate := session.ask()) is not None:
        session.record(candidate, evaluator.evaluate(candidate))
