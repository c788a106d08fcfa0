"""Continuous batching over one model, in a thread of its own. It knows token ids: no text, no HTTP.

A step is what the scheduler says, at the widths that the policy says. The runtime runs in this thread only, so the
event loop that serves the clients never waits for it. Each request gets the tokens that `decoding.generate` would give
it alone, whatever shares its steps and however often it is preempted.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterable, Sequence
from copy import copy
from functools import partial

import torch
from torch import Tensor

from lts_ray.decoding.plain_loop import check_length
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.active_request import ActiveRequest
from serve.engine.engine_errors import BudgetInfeasibleError, QueueFullError, one_line
from serve.engine.engine_health import EngineHealth
from serve.engine.hold import Hold
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Load, Observer, StepRecord, tell
from serve.engine.response import Admitted, Ended, FinishReason, LeaveReason, Outbox, Response, ResponseFailed, Token
from serve.engine.sample_rows import sample_rows
from serve.engine.scheduler import Scheduler
from serve.engine.step import Part, Step
from serve.policies.admission import drain_s, judge, on_admission, smallest_feasible_budget_ms
from serve.policies.capacity import Capacity
from serve.policies.menu import Menu
from serve.policies.policy import Job, Policy, Situation
from serve.policies.request import Request, Resumed

logger = logging.getLogger(__name__)


class Engine:
    """`submit` and the responses belong to an event loop; the steps run in the thread between `start` and `stop`."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        menu: Menu,
        times: LearnedTimes,
        policy: Policy,
        eos_ids: frozenset[int],
        capacity: Capacity,
        prefix_cache: bool = True,
        observers: Sequence[Observer] = (),
    ) -> None:
        """runtime: this engine's alone while it runs. times: of its steps. eos_ids: tokens that end a response."""
        self.config, self.menu, self.capacity, self.clock = runtime.config, menu, capacity, times.clock
        self._runtime, self._observers, self._times = runtime, observers, times
        self._eos_ids = frozenset(token for token in eos_ids if token < runtime.config.vocab_size)
        self._ids, self._health, self._stopping = itertools.count(), EngineHealth(), False
        # The lock guards what both threads change: the scheduler, the active requests, the cancellations.
        self._wake = threading.Condition()
        self.hold = Hold(self._wake)
        self._scheduler = Scheduler(
            menu=menu, policy=policy, capacity=capacity, n_blocks=runtime.n_blocks, prefix_cache=prefix_cache
        )
        self.use_policy(policy)
        self._active: dict[int, ActiveRequest] = {}
        self._cancelled: dict[int, FinishReason | LeaveReason] = {}
        self._outbox = Outbox()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def costs(self) -> StepCosts:
        return self._times.costs

    @property
    def policy(self) -> Policy:
        return self._scheduler.policy

    def use_policy(self, policy: Policy) -> None:
        """From the next step on. Tries it first: raises LtsRayError for one that does not fit this engine's menu."""
        with self._wake:
            copy(policy).plan(self.situation(self.clock()), self.menu, self.costs)
            self._scheduler.policy = policy

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the step in progress. Requests that are not done get an error. Returns when the thread is gone."""
        with self._wake:
            self._stopping = True
            self._health.end("the server is shutting down")
            self._wake.notify_all()
        if self._thread.ident is None:
            self._give_up()
        else:
            self._thread.join()

    def check(self) -> None:
        """Raise EngineFailedError unless the engine works."""
        self._health.check()

    def counts(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        return (load := self.load()).running, load.waiting

    def load(self) -> Load:
        """Without the requests that leave at the next step boundary: who is answered does not count any more."""
        with self._wake:
            running = len(set(self._scheduler.running) - self._cancelled.keys())
            waiting = len(set(self._scheduler.waiting) - self._cancelled.keys())
            return Load(running=running, waiting=waiting, kv_usage=self._scheduler.kv_usage if running else 0.0)

    def submit(self, request: Request, *, arrived_s: float | None = None, resumed: Resumed | None = None) -> Response:
        """Queue a request; call it on the event loop that will read the response. arrived_s: by the engine's clock.

        resumed: what it got from another engine, which had taken it on: it goes on from there, and is not refused.
        Raises QueueFullError, BudgetInfeasibleError for a strict request, EngineFailedError, or LtsRayError for a
        request that can never run; nothing of it is kept then.
        """
        check_length(len(request.prompt), request.max_tokens, self.config.context_length)
        now = self.clock()
        arrived_s = now if arrived_s is None else arrived_s
        job = Job(id=next(self._ids), request=request, arrived_ms=arrived_s * 1e3)
        with self._wake:
            self.check()
            situation, policy = self.situation(now), copy(self.policy)
        new = resumed is None
        if new and len(situation.waiting) >= self.capacity.max_queue:
            raise self._full(situation)
        # To look ahead takes milliseconds where many wait: only for requests that would be refused rather than be late.
        if new and request.strict and judge(situation, job, self.menu, self.costs, policy).met is False:
            tell(self._observers, lambda observer: observer.refused("infeasible"))
            feasible = smallest_feasible_budget_ms(situation, job, self.menu, self.costs, policy)
            raise BudgetInfeasibleError(feasible, retry_after_s=drain_s(situation, self.costs))
        cancel = partial(self.cancel, job.id)
        begun = resumed or Resumed()
        active = ActiveRequest.of(
            request, id=job.id, arrived_s=arrived_s, eos_ids=self._eos_ids, cancel=cancel, resumed=begun
        )
        with self._wake:
            self.check()
            if over := active.over(begun):
                self._cancelled[job.id] = over
            elif not self._scheduler.add(job, resumed):
                raise self._full(situation)
            self._active[job.id] = active
            self._wake.notify_all()
        return active.response

    def cancel(self, number: int, reason: LeaveReason = "cancelled") -> None:
        """The request leaves at the next step boundary, and its place is free again. Unknown ids are no error.

        reason: "stop" where it has ended as it should, by what the engine does not know: a stop string.
        """
        with self._wake:
            if active := number in self._active:
                self._cancelled[number] = reason if reason == "failed" else self._cancelled.get(number, reason)
                self._wake.notify_all()
        if reason == "failed" and not active:
            tell(self._observers, lambda observer: observer.broken())

    def situation(self, at_s: float) -> Situation:
        return self._scheduler.situation(at_s * 1e3, self._times.deviation)

    def _full(self, situation: Situation) -> QueueFullError:
        tell(self._observers, lambda observer: observer.refused("queue_full"))
        return QueueFullError(self.capacity.max_queue, retry_after_s=drain_s(situation, self.costs))

    # From here on everything runs in the engine's thread.

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._awake():
                    self._step()
        except BaseException:  # even of kinds that only end programs: this thread must not end in silence
            logger.exception("the engine's thread has died")
        finally:  # whatever ended the thread, no client waits for ever
            self._give_up()

    def _give_up(self) -> None:
        with self._wake:
            refusal = self._health.end("the engine's thread has died; see the server's log")
            left = list(self._active)
        self._fail(left, refusal)
        self._hand_over()
        tell(self._observers, lambda observer: observer.idle())

    def _awake(self) -> bool:
        """Wait for something to do. False when the engine is to stop."""
        with self._wake:
            while not (self._stopping or self._cancelled or self._scheduler.has_work):
                self.hold.wait()
                self._times.begin()
            cancelled, stopping = dict(self._cancelled), self._stopping
        for number, reason in cancelled.items():
            if reason == "failed":
                self._fail([number], "the answer could not be written; see the server's log")
            else:
                self._finish(self._active[number], reason, self.clock())
        return not stopping

    def _step(self) -> None:
        """Plan a step, run it and hand over what it made. A failure is the step's requests' alone."""
        step = None
        try:
            with self._wake:
                step = self._scheduler.step(self.clock() * 1e3, self.costs, self._times.deviation)
            started = self.clock()
            if step is not None:
                self._take(step, self._runtime.run([part.segment for part in step.parts]), started)
            self._health.failed_steps = 0
        except Exception as error:
            self._health.failed_steps += 1
            failed = list(self._active) if step is None else [part.id for part in step.parts]
            logger.exception("a step of %d requests failed", len(failed))
            self._fail(failed, f"the step failed: {one_line(error)}")
            step = None
        self._hand_over()
        if step is not None:
            self._note(step)
            return
        self._times.begin()  # what failed is not the next step's time
        if not self._scheduler.has_work:
            tell(self._observers, lambda observer: observer.idle())

    def _take(self, step: Step, logits: Tensor, started: float) -> None:
        """logits: [parts that want them, vocab_size]. started: when the step began."""
        parts = [part for part in step.parts if part.segment.wants_logits]
        chosen, broken = sample_rows([self._active[part.id] for part in parts], logits)
        for id, error in broken.items():
            self._fail([id], f"choosing a token failed: {one_line(error)}")
        pieces = [part for part in step.parts[step.decoded :] if part.id in self._active]
        if begun := [part for part in pieces if not self._active[part.id].begun]:
            self._admit(step, begun, started)
        now = self.clock()
        with self._wake:
            self._scheduler.took(step, {id: choice.token for id, choice in chosen.items()}, now * 1e3)
        for part in parts:
            if part.id not in chosen:
                continue
            active, choice = self._active[part.id], chosen[part.id]
            if choice.token in active.stops:
                self._finish(active, "stop", now)
                continue
            self._push(active, Token(choice.token, part.option.name, now, choice.logprob, choice.top))
            active.left -= 1
            if not active.left:
                self._finish(active, "length", now)

    def _admit(self, step: Step, begun: Sequence[Part], started: float) -> None:
        """Say how long those whose first step this was are expected to take."""
        with self._wake:
            situation = self.situation(started)
        options = {part.id: part.option for part in step.parts}
        expected = on_admission(situation, options, self.menu, self.costs, self.policy)
        for part in begun:
            active = self._active[part.id]
            waited_ms = (started - active.progress.arrived_s) * 1e3
            predicted = self._times.responses.predict(expected.timing(part.id), waited_ms=waited_ms)
            self._push(active, Admitted(part.option.name, predicted, started))

    def _note(self, step: Step) -> None:
        now, actual_ms = self._times.end(step)
        with self._wake:
            record = StepRecord.of(step, self._scheduler, at_s=now, actual_ms=actual_ms)
        tell(self._observers, lambda observer: observer.stepped(record))

    def _push(self, active: ActiveRequest, event: Admitted | Token | Ended) -> None:
        active.progress.note(event)
        self._outbox.put(active.response, event)

    def _hand_over(self) -> None:
        for response in self._outbox.send(self.clock()):
            response.cancel()

    def _finish(self, active: ActiveRequest, reason: FinishReason, now: float) -> None:
        self._push(active, Ended(reason, now))
        self._times.responses.note(active.progress, whole=reason == "length")
        self._leave(active, reason)

    def _fail(self, numbers: Iterable[int], message: str) -> None:
        for number in numbers:
            if (active := self._active.get(number)) is not None:  # one that has ended before has an answer already
                self._outbox.put(active.response, ResponseFailed(message))
                self._leave(active, None)

    def _leave(self, active: ActiveRequest, reason: FinishReason | None) -> None:
        with self._wake:
            self._scheduler.remove(active.id)
            del self._active[active.id]
            cancelled = self._cancelled.pop(active.id, None)
        active.log_end(reason)
        tell(self._observers, lambda observer: observer.ended(active.request, active.progress, reason))
        if cancelled == "failed" and reason is not None:  # said while the last token was on its way
            tell(self._observers, lambda observer: observer.broken())
