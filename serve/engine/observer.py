"""What the engine tells of itself: to metrics, to logs, to a benchmark."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from serve.engine.response import FinishReason, Progress
from serve.engine.scheduler import Scheduler
from serve.engine.step import Step
from serve.policies.request import Request

logger = logging.getLogger(__name__)

Refusal = Literal["queue_full", "infeasible"]


@dataclass(kw_only=True, slots=True)
class Load:
    """What the engine has to do."""

    running: int = 0
    """Requests in the batch."""
    waiting: int = 0
    """Requests in the queue."""
    kv_usage: float = 0.0
    """The share of the blocks that running requests hold."""


@dataclass(kw_only=True, slots=True)
class StepRecord(Load):
    """One step that has run, and what there is to do after it. Not to be changed."""

    at_s: float
    predicted_ms: float
    """By the costs as they were corrected before it."""
    actual_ms: float
    decoded: int
    """Rows that continued a response."""
    prompt_tokens: int
    """Tokens of prompts that ran."""
    reused_tokens: int
    """Tokens of prompts admitted in this step that the prefix cache already held."""
    switches: int
    """Responses whose width changed in the middle."""
    preempted: int
    """Requests that lost their blocks and will run again."""

    @classmethod
    def of(cls, step: Step, scheduler: Scheduler, *, at_s: float, actual_ms: float) -> StepRecord:
        """The scheduler has taken the step."""
        return cls(
            at_s=at_s,
            predicted_ms=step.predicted_ms,
            actual_ms=actual_ms,
            decoded=step.decoded,
            prompt_tokens=step.prompt_tokens,
            reused_tokens=step.reused_tokens,
            switches=step.switches,
            preempted=len(step.preempted),
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_usage=scheduler.kv_usage,
        )

    @property
    def relative_error(self) -> float | None:
        """Of the predicted time. None for a step that is too short for the clock to see."""
        return abs(self.predicted_ms / self.actual_ms - 1) if self.actual_ms > 0 else None


class Observer:
    """Told of it all in the engine's thread, between steps: be quick. A subclass has the methods that it needs."""

    def stepped(self, record: StepRecord) -> None: ...

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        """reason: None for a request whose step failed."""

    def idle(self) -> None:
        """The last requests have left, and not in a step, whose record would say so."""

    def broken(self) -> None:
        """What a request has got could not be made an answer, after it had ended. Called on the event loop."""

    def refused(self, reason: Refusal) -> None:
        """A request was not queued. Called on the event loop that asked, which others may share."""


def tell(observers: Sequence[Observer], what: Callable[[Observer], None]) -> None:
    """Each of them; one that fails stops neither the others nor what it observes."""
    for observer in observers:
        try:
            what(observer)
        except Exception:
            logger.exception("the observer %s failed", type(observer).__name__)
