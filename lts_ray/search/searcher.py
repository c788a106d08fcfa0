"""Ray Tune's view of a search: thin around a session, whose log is the state. Nothing is pickled or unpickled here."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from lts_ray.errors import LtsRayError
from lts_ray.files import read_json, write_json
from lts_ray.measurement.evaluation import outcome_from_json
from lts_ray.search.session import SearchSession

SCHEMA = 1
CANDIDATE, OUTCOME = "candidate", "outcome"
"""Keys of a trial's configuration and of its result."""


class LtsSearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Pairs trials with candidates by trial id: a trial always has the same one, a second completion is ignored.

    failure: set when a trial ended without an outcome, which is never the candidate's fault: the pool is gone.
    """

    def __init__(self, session: SearchSession[Any], *, show: Callable[[], None] = lambda: None) -> None:
        super().__init__(metric=None, mode=None)
        self.failure: str | None = None
        self._session, self._show = session, show
        self._trials: dict[str, Hashable] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.failure is not None:
            return str(Searcher.FINISHED)
        candidate = self._trials.get(trial_id) or self._session.ask()
        if candidate is None:
            return str(Searcher.FINISHED) if self._session.is_finished else None
        self._trials[trial_id] = candidate
        return {CANDIDATE: json.dumps(self._session.plan.space.to_json(candidate))}  # Tune would flatten a dict

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        candidate = self._trials.get(trial_id)
        if candidate is None:
            return
        if error or result is None or OUTCOME not in result:
            self.failure = f"the trial of {self._session.plan.space.to_json(candidate)} ended without a result"
            return
        self._session.record(candidate, outcome_from_json(json.loads(result[OUTCOME])))
        self._show()

    def save(self, checkpoint_path: str) -> None:
        """The book of trials; the outcomes are in the session's log."""
        trials = {trial_id: self._session.plan.space.to_json(each) for trial_id, each in self._trials.items()}
        write_json(Path(checkpoint_path), {"schema": SCHEMA, "trials": trials})

    def restore(self, checkpoint_path: str) -> None:
        """Into a searcher around the same session, resumed."""
        state = read_json(Path(checkpoint_path), what="searcher state")
        if state.get("schema") != SCHEMA:
            raise LtsRayError(f"searcher state {checkpoint_path} has schema {state.get('schema')}; expected {SCHEMA}")
        space = self._session.plan.space
        self._trials = {str(trial_id): space.from_json(each) for trial_id, each in state["trials"].items()}
        for candidate in self._trials.values():
            self._session.claim(candidate)

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy in its own temporary folder; a progress bar on a terminal cannot be in it."""
        return {**self.__dict__, "_show": _silent}


def _silent() -> None:
    pass
