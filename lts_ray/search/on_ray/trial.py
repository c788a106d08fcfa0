"""A trial of Ray Tune: takes its candidate's outcome from the pool and reports it.

It imports nothing of this package, so that its process is ready in a second: torch alone takes longer.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

TICKET, OUTCOME = "ticket", "outcome"
"""Keys of a trial's configuration and of its result."""


class CandidateTrial(tune.Trainable):  # type: ignore[misc]  # Ray has no types
    """Reused for one candidate after another."""

    def setup(self, config: dict[str, Any], pool: Any = None) -> None:
        self._pool, self._ticket = pool, config[TICKET]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._ticket = new_config[TICKET]
        return True

    def step(self) -> dict[str, Any]:
        """The outcome is JSON, because Tune would flatten a dict; without one there was no candidate left."""
        outcome = ray.get(self._pool.take.remote(self._ticket))
        return {"done": True} if outcome is None else {OUTCOME: outcome, "done": True}
