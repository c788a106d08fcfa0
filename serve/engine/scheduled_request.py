"""A request as the scheduler keeps it: its tokens, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass

from serve.policies.menu import Option
from serve.policies.policy import Job
from serve.policies.request import Request


@dataclass(slots=True, eq=False)
class ScheduledRequest:
    id: int
    request: Request
    arrived_ms: float
    tokens: list[int]
    """Of its prompt and what it has produced."""
    cached: int = 0
    produced: int = 0
    first_ms: float | None = None
    option: Option | None = None
    decodes: bool = False
    _job: Job | None = None

    @property
    def job(self) -> Job:
        """As policies see it: made when one is asked, which is not so in every step."""
        if self._job is None:
            self._job = Job(
                id=self.id,
                request=self.request,
                arrived_ms=self.arrived_ms,
                cached=self.cached,
                produced=self.produced,
                first_ms=self.first_ms,
                option=self.option,
            )
        return self._job

    def move(self, cached: int) -> None:
        """So many of its tokens' places are written now."""
        self.cached, self._job = cached, None
        self.decodes = self.produced > 0 and len(self.tokens) - cached == 1
