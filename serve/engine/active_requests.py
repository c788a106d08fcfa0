"""All requests that an engine works on, by id: they get what steps make, and leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Condition

from lts_ray.pick import ChosenToken
from serve.engine.active_request import ActiveRequest
from serve.engine.engine_errors import one_line
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Load, Observer, tell
from serve.engine.response import Admitted, Ended, FinishReason, LeaveReason, Outbox, ResponseFailed, Token
from serve.engine.scheduler import Scheduler
from serve.engine.step import Step


class ActiveRequests(dict[int, ActiveRequest]):
    """`cancel` and `load` are for every thread, all else is for the engine's; wake, its lock, guards what is shared."""

    def __init__(
        self, wake: Condition, scheduler: Scheduler, times: LearnedTimes, observers: Sequence[Observer]
    ) -> None:
        super().__init__()
        self._wake, self._scheduler, self._times, self._observers = wake, scheduler, times, observers
        self.cancelled: dict[int, FinishReason | LeaveReason] = {}
        """Those that leave at the next step boundary."""
        self._editing: set[int] = set()  # those whose logits the CPU edits, or did at first
        self._outbox = Outbox()

    def add(self, active: ActiveRequest) -> None:
        """The lock is held."""
        self[active.id] = active
        if active.sampler.edits:
            self._editing.add(active.id)

    def load(self) -> Load:
        """Without the requests that leave at the next step boundary: who is answered does not count any more."""
        with self._wake:
            waiting = len(set(self._scheduler.waiting) - self.cancelled.keys())
            running = len(self.keys() - self.cancelled.keys()) - waiting
            return Load(running=running, waiting=waiting, kv_usage=self._scheduler.kv_usage if running else 0.0)

    def cancel(self, number: int, reason: LeaveReason = "cancelled") -> None:
        """The request leaves at the next step boundary, and its place is free again. Unknown ids are no error.

        reason: "stop" where it has ended as it should, by what the engine does not know: a stop string.
        """
        with self._wake:
            if active := number in self:
                self.cancelled[number] = reason if reason == "failed" else self.cancelled.get(number, reason)
                self._wake.notify_all()
        if reason == "failed" and not active:
            tell(self._observers, lambda observer: observer.broken())

    def end(self, cancelled: Mapping[int, FinishReason | LeaveReason]) -> None:
        for number, reason in cancelled.items():
            if reason == "failed":
                self.fail([number], "the answer could not be written; see the server's log")
            else:
                self._finish(self[number], reason, self._times.clock())

    @property
    def edited(self) -> bool:
        """Whether logits of requests that may be in the next step are to be edited, which no device does."""
        if not self._editing:
            return False
        running = self._scheduler.running
        full = len(running) == self._scheduler.capacity.slots
        return any(self[id].sampler.edits for id in (self._editing.intersection(running) if full else self._editing))

    def take(
        self,
        step: Step,
        chosen: Mapping[int, ChosenToken],
        broken: Mapping[int, Exception],
        newcomers: Mapping[int, Admitted],
        took: Callable[[Step, Mapping[int, int], float], None],
    ) -> None:
        """A step has run. By id, what it made, and what went wrong as a token was chosen.

        newcomers: whose first step it was. took: tells the scheduler the tokens.
        """
        for number, error in broken.items():
            self.fail([number], f"choosing a token failed: {one_line(error)}")
        for number, event in newcomers.items():
            if number in self:
                self._push(self[number], event)
        now = self._times.clock()
        with self._wake:
            took(step, {number: choice.token for number, choice in chosen.items()}, now * 1e3)
        for part in step.parts:
            if (choice := chosen.get(part.id)) is None:
                continue
            active = self[part.id]
            if choice.token in active.stops:
                self._finish(active, "stop", now)
                continue
            self._push(active, Token(choice.token, part.option.name, now, choice.logprob, choice.top))
            active.left -= 1
            if not active.left:
                self._finish(active, "length", now)

    def fail(self, numbers: Iterable[int], message: str) -> None:
        for number in numbers:
            if (active := self.get(number)) is not None:  # one that has ended before has an answer already
                self._outbox.put(active.response, ResponseFailed(message))
                self._leave(active, None)

    def hand_over(self) -> None:
        """What has come for them goes to their event loops."""
        for response in self._outbox.send(self._times.clock()):
            response.cancel()

    def _push(self, active: ActiveRequest, event: Admitted | Token | Ended) -> None:
        active.progress.note(event)
        self._outbox.put(active.response, event)

    def _finish(self, active: ActiveRequest, reason: FinishReason, now: float) -> None:
        self._push(active, Ended(reason, now))
        self._times.responses.note(active.progress, whole=reason == "length")
        self._leave(active, reason)

    def _leave(self, active: ActiveRequest, reason: FinishReason | None) -> None:
        with self._wake:
            self._scheduler.remove(active.id)
            del self[active.id]
            self._editing.discard(active.id)
            cancelled = self.cancelled.pop(active.id, None)
        active.log_end(reason)
        tell(self._observers, lambda observer: observer.ended(active.request, active.progress, reason))
        if cancelled == "failed" and reason is not None:  # said while the last token was on its way
            tell(self._observers, lambda observer: observer.broken())
