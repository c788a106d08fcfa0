"""What the engine tells of itself, to whoever counts: metrics, logs, a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from serve.engine.request import Request
from serve.engine.response import FinishReason, Progress

Refusal = Literal["queue_full", "infeasible"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One step that has run. predicted_ms: by the costs as they were corrected before it.

    decoded: rows that continued a response. prompt_tokens: tokens of prompts that ran; reused_tokens: tokens of prompts
    admitted in this step that the prefix cache already held. switches: responses whose width changed in the middle.
    preempted: requests that lost their blocks and will run again. running, waiting: requests, after the step.
    kv_usage: share of the blocks that running requests hold.
    """

    at_s: float
    predicted_ms: float
    actual_ms: float
    decoded: int
    prompt_tokens: int
    reused_tokens: int
    switches: int
    preempted: int
    running: int
    waiting: int
    kv_usage: float

    @property
    def relative_error(self) -> float | None:
        """Of the predicted time. None for a step that is too short for the clock to see."""
        return abs(self.predicted_ms / self.actual_ms - 1) if self.actual_ms > 0 else None


class Observer(Protocol):
    """Called in the engine's thread, between steps: be quick, and do not raise."""

    def stepped(self, record: StepRecord) -> None: ...

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        """reason: None for a request whose step failed."""
        ...

    def refused(self, reason: Refusal) -> None:
        """A request was not queued. Called on the event loop that asked, which others may share."""
        ...


class Silence:
    """Nobody counts."""

    def stepped(self, record: StepRecord) -> None: ...

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None: ...

    def refused(self, reason: Refusal) -> None: ...


class Everybody:
    """Tells several observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def stepped(self, record: StepRecord) -> None:
        for observer in self._observers:
            observer.stepped(record)

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        for observer in self._observers:
            observer.ended(request, progress, reason)

    def refused(self, reason: Refusal) -> None:
        for observer in self._observers:
            observer.refused(reason)
