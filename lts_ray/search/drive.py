"""Runs a search in this process, one candidate after another: ask and tell in a loop. Ray does the same in `run`."""

from __future__ import annotations

from lts_ray.measurement.evaluation import Evaluator
from lts_ray.search.session import SearchSession


def drive(session: SearchSession, evaluator: Evaluator) -> None:
    while (submodel := session.ask()) is not None:
        session.record(submodel, evaluator.evaluate(submodel))
