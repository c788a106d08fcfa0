"""Ray Tune's view of a search: thin around a session, whose log is the state. Nothing is pickled or unpickled here.

A trial is one candidate, but it may begin before there is one: Tune takes down the actors of a search that has nothing
to suggest for a moment, such as between two generations, and starting them again takes seconds. So a trial is suggested
a ticket, and waits in the pool until the ticket's candidate is offered.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from ray.tune.search import Searcher

from lts_ray.errors import LtsRayError
from lts_ray.measurement.outcome import outcome_from_json
from lts_ray.search.on_ray.trial import OUTCOME, TICKET
from lts_ray.search.search_session import SearchSession

Offer = Callable[[str, Hashable | None], None]
"""Called with a ticket and its candidate; None: there is nothing left to evaluate, or what it has is given up."""


class LtsSearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Pairs trials with candidates by trial id: a trial always has the same one, a second completion is ignored.

    failure: set when an outcome cannot be logged, or a trial ended without one, which is never the candidate's fault:
    the pool is gone.
    """

    def __init__(self, session: SearchSession[Any], *, offer: Offer, show: Callable[[], None] = lambda: None) -> None:
        super().__init__(metric=None, mode=None)
        self.failure: str | None = None
        self._session, self._offer, self._show = session, offer, show
        self._trials: dict[str, Hashable] = {}
        self._waiting: deque[str] = deque()  # tickets without a candidate, oldest first

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        known = trial_id in self._trials or trial_id in self._waiting
        if not known:
            if self.failure is not None or self._session.is_finished:
                return str(Searcher.FINISHED)
            self._waiting.append(trial_id)
            self._hand_out()
        return {TICKET: trial_id}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        candidate = self._trials.get(trial_id)
        if candidate is None and not error:
            return
        if error or result is None or OUTCOME not in result:
            described = "a candidate" if candidate is None else self._session.plan.space.to_json(candidate)
            self._fail(f"the trial of {described} ended without a result")
        else:
            try:
                self._session.record(candidate, outcome_from_json(json.loads(result[OUTCOME])))
            except LtsRayError as problem:  # such as a full disk: what is measured from here on would be lost too
                self._fail(str(problem))
            self._show()
        self._hand_out()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the session's log is the state."""

    def _hand_out(self) -> None:
        """Candidates for the tickets that wait, as far as there are any; when it is over, nothing for the rest."""
        while self._waiting and self.failure is None and (candidate := self._session.ask()) is not None:
            ticket = self._waiting.popleft()
            self._trials[ticket] = candidate
            self._offer(ticket, candidate)
        if self.failure is not None or self._session.is_finished:
            while self._waiting:
                self._offer(self._waiting.popleft(), None)

    def _fail(self, reason: str) -> None:
        """The first failure counts. What is being evaluated is given up."""
        if self.failure is None:
            self.failure = reason
            for ticket, candidate in self._trials.items():
                if candidate not in self._session.outcomes:
                    self._offer(ticket, None)

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy in its own temporary folder; a progress bar and a pool cannot be in it."""
        return {**self.__dict__, "_show": lambda: None, "_offer": lambda *_: None}
