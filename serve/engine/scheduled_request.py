"""A request as the scheduler keeps it: its tokens, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass

from lts_ray.runtime.segment import Segment
from serve.engine.blocks import blocks_needed
from serve.engine.step import Part
from serve.policies.menu import Option
from serve.policies.policy import Job
from serve.policies.request import Request


@dataclass(slots=True, eq=False)
class ScheduledRequest:
    id: int
    request: Request
    arrived_ms: float
    tokens: list[int]
    """Of its prompt and what it has produced. One that a begun step is choosing is negative: see `pending`."""
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

    def part(self, option: Option, table: tuple[int, ...], n: int) -> Part:
        """Its next n tokens. table: its blocks."""
        start, stop = self.cached, self.cached + n
        segment = Segment(
            tokens=tuple(self.tokens[start:stop]),
            start=start,
            blocks=table[: blocks_needed(stop)],
            submodel=option.submodel,
            wants_logits=stop == len(self.tokens),
        )
        return Part(self.id, segment, option)

    def switches(self, option: Option) -> bool:
        """Whether it changes its width if it runs at this one now."""
        before = self.option
        return before is not option and (before is None or before.submodel != option.submodel)
