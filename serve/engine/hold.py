"""Requests that are on their way to the engine: a first step waits for them a moment, so that it is theirs too."""

from __future__ import annotations

from threading import Condition

HOLD_S = 0.004
"""At most: a request that takes longer to be read must not keep others waiting."""


class Hold:
    """Entered by who reads a request whose body has come, left when it was submitted or refused.

    wake: the engine's, which this shares with what changes its requests.
    """

    def __init__(self, wake: Condition) -> None:
        self._wake, self._coming = wake, 0

    def __enter__(self) -> None:
        with self._wake:
            self._coming += 1

    def __exit__(self, *_: object) -> None:
        with self._wake:
            self._coming -= 1
            self._wake.notify_all()

    def wait(self, *, seconds: float = HOLD_S) -> None:
        """For news, and then until no more comes. The lock is held."""
        self._wake.wait()
        self._wake.wait_for(lambda: not self._coming, seconds)
