"""Tells an observer what the engine does, and the debug log how each request ended: the access log has it otherwise.

Whoever counts cannot stop what is counted by failing.
"""

from __future__ import annotations

import logging

from serve.engine.observer import Observer, Refusal, StepRecord
from serve.engine.request import Active
from serve.engine.response import FinishReason
from serve.engine.scheduler import Scheduler
from serve.engine.step import Step

logger = logging.getLogger(__name__)


class Teller:
    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def stepped(self, step: Step, scheduler: Scheduler, *, at_s: float, actual_ms: float) -> None:
        """The step has run, and the scheduler has taken it."""
        record = StepRecord(
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
        try:
            self._observer.stepped(record)
        except Exception:
            logger.exception("an observer of steps failed")

    def refused(self, reason: Refusal) -> None:
        try:
            self._observer.refused(reason)
        except Exception:
            logger.exception("an observer of refusals failed")

    def ended(self, active: Active, reason: FinishReason | None) -> None:
        """reason: None for a request that failed."""
        progress, budget = active.progress, active.request.budget
        predicted, measured = progress.predicted, progress.measured()
        logger.debug(
            "request %s: %s after %d + %d tokens at %s, predicted %s ms, actual %s ms, budget %s ms",
            active.request.label,
            reason or "failed",
            len(active.request.prompt),
            progress.tokens,
            dict(progress.submodels),
            predicted and predicted.to_json(),
            measured and measured.to_json(),
            budget.items() or None,
        )
        try:
            self._observer.ended(active.request, progress, reason)
        except Exception:
            logger.exception("an observer of requests failed")
