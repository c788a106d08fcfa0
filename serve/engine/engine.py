"""Continuous batching over one model, in a thread of its own. It knows token ids: no text, no HTTP.

A step is what the scheduler says, at the widths that the policy says. The runtime runs in this thread only, so the
event loop that serves the clients never waits for it; one that chooses tokens is at a step while the next is planned.
Each request gets the tokens that `decoding.generate` would give it alone, whatever shares its steps and however often
it is preempted.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Collection, Sequence
from copy import copy
from functools import partial

import torch

from lts_ray.decoding.plain_loop import check_length
from lts_ray.runtime.runtime import Runtime, chooses, pending
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.active_request import ActiveRequest
from serve.engine.active_requests import ActiveRequests
from serve.engine.engine_errors import BudgetInfeasibleError, QueueFullError, one_line
from serve.engine.engine_health import EngineHealth
from serve.engine.flight import Flight
from serve.engine.hold import Hold
from serve.engine.learned_times import LearnedTimes
from serve.engine.observer import Load, Observer, StepRecord, tell
from serve.engine.response import Admitted, Response
from serve.engine.sample_rows import sample_rows
from serve.engine.scheduler import Scheduler
from serve.engine.step import Step
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
        self._ids, self._health = itertools.count(), EngineHealth()
        self._wake = threading.Condition()  # guards what both threads change
        self.hold = Hold(self._wake)
        self._scheduler = Scheduler(
            menu=menu, policy=policy, capacity=capacity, n_blocks=runtime.n_blocks, prefix_cache=prefix_cache
        )
        self._choosing = runtime if chooses(runtime) else None
        self._flight: Flight | None = None  # what was begun last, if it is not over: the scheduler has taken it
        self.use_policy(policy)
        self._active = ActiveRequests(self._wake, self._scheduler, times, observers)
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
        return self._active.load()

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
        cancel = partial(self._active.cancel, job.id)
        begun = resumed or Resumed()
        active = ActiveRequest.of(
            request, id=job.id, arrived_s=arrived_s, eos_ids=self._eos_ids, cancel=cancel, resumed=begun
        )
        with self._wake:
            self.check()
            if over := active.over(begun):
                self._active.cancelled[job.id] = over
            elif not self._scheduler.add(job, resumed):
                raise self._full(situation)
            self._active.add(active)
            self._wake.notify_all()
        return active.response

    def situation(self, at_s: float) -> Situation:
        """When the steps that have begun are over, which may be later."""
        return self._scheduler.situation(self._free_s(at_s) * 1e3, self._times.deviation)

    def _free_s(self, now_s: float) -> float:
        """When the runtime is expected to be free for another step."""
        flight = self._flight
        return now_s if flight is None else max(now_s, flight.ends_s)

    def _full(self, situation: Situation) -> QueueFullError:
        tell(self._observers, lambda observer: observer.refused("queue_full"))
        return QueueFullError(self.capacity.max_queue, retry_after_s=drain_s(situation, self.costs))

    # From here on everything runs in the engine's thread.

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._awake():
                    self._step()
                if self._flight is not None:
                    self._end(self._land(self._flight))
        except BaseException:  # even of kinds that only end programs: this thread must not end in silence
            logger.exception("the engine's thread has died")
        finally:  # whatever ended the thread, no client waits for ever
            self._give_up()

    def _give_up(self) -> None:
        with self._wake:
            refusal = self._health.end("the engine's thread has died; see the server's log")
            left = list(self._active)
        self._active.fail(left, refusal)
        self._active.hand_over()
        tell(self._observers, lambda observer: observer.idle())

    def _awake(self) -> bool:
        """Wait for something to do. False when the engine is to stop, or can not go on."""
        with self._wake:
            while not (self._health.refusal or self._active.cancelled or self._scheduler.has_work or self._flight):
                self.hold.wait()
                self._times.begin()
            cancelled, refusal = dict(self._active.cancelled), self._health.refusal
        self._active.end(cancelled)
        return refusal is None

    def _step(self) -> None:
        """Plan a step, run it and hand over what it made; or begin it, and hand over what the one before made.

        A failure is the step's requests' alone.
        """
        before, step, done, failure = self._flight, None, None, None
        try:
            with self._wake:
                if before is not None:
                    self._scheduler.let_go()
                ahead = self._choosing is not None and not self._active.edited
                if ahead or before is None:  # else what was begun is taken first
                    now_ms = self._free_s(self.clock()) * 1e3
                    step = self._scheduler.step(now_ms, self.costs, self._times.deviation)
            if step is not None and ahead:
                self._begin_step(step)
            elif step is not None:
                done = self._run_step(step)
        except Exception as error:
            failure = error
        if before is not None:
            done = self._land(before)
        if failure is not None:
            self._break(failure, list(self._active) if step is None else [part.id for part in step.parts])
        self._end(done)

    def _run_step(self, step: Step) -> Step:
        started = self.clock()
        logits = self._runtime.run([part.segment for part in step.parts])
        chosen, broken = sample_rows([self._active[part.id] for part in step.wanting], logits)
        self._active.take(step, chosen, broken, self._newcomers(step, started), self._scheduler.took)
        self._health.failed_steps = 0
        return step

    def _begin_step(self, step: Step) -> None:
        """The scheduler takes it as done: the next one can be planned."""
        assert self._choosing is not None
        starts_s, parts = self._free_s(self.clock()), step.wanting
        picks = [pick for part in parts if (pick := self._active[part.id].sampler.pick()) is not None]
        begun = self._choosing.begin([part.segment for part in step.parts], picks)
        flight = Flight(step, begun, self._newcomers(step, starts_s), starts_s)
        with self._wake:
            self._scheduler.took(
                step, {part.id: pending(place) for place, part in enumerate(parts)}, flight.ends_s * 1e3
            )
            self._flight = flight

    def _land(self, flight: Flight) -> Step | None:
        """Take what the device has made. If that fails, so has what was begun upon it."""
        last = self._flight or flight
        try:
            chosen, broken = flight.chosen(self._active)
            self._active.take(flight.step, chosen, broken, flight.admitted, self._scheduler.made)
        except Exception as error:
            self._flight = None
            with self._wake:
                self._scheduler.forget()
            self._break(error, {part.id for each in (flight, last) for part in each.step.parts})
            return None
        if last is flight:
            self._flight = None
        self._health.failed_steps = 0
        return flight.step

    def _break(self, error: Exception, failed: Collection[int]) -> None:
        self._health.step_failed(self._runtime.device)
        logger.error("a step of %d requests failed", len(failed), exc_info=error)
        self._active.fail(failed, f"the step failed: {one_line(error)}")

    def _end(self, done: Step | None) -> None:
        """Hand over what there is. done: what was taken."""
        self._active.hand_over()
        if done is not None:
            self._note(done)
        elif self._flight is None:
            self._times.begin()  # what failed is not the next step's time
            if not self._scheduler.has_work:
                tell(self._observers, lambda observer: observer.idle())

    def _newcomers(self, step: Step, started: float) -> dict[int, Admitted]:
        """Those whose first step this is, and how long they are expected to take."""
        known = () if self._flight is None else self._flight.newcomers
        pieces = step.parts[step.decoded :]
        begun = [part for part in pieces if not (part.id in known or self._active[part.id].begun)]
        if not begun:
            return {}
        with self._wake:
            situation = self.situation(started)
        options = {part.id: part.option for part in step.parts}
        expected = on_admission(situation, options, self.menu, self.costs, self.policy)
        events = {}
        for part in begun:
            waited_ms = (started - self._active[part.id].progress.arrived_s) * 1e3
            predicted = self._times.responses.predict(expected.timing(part.id), waited_ms=waited_ms)
            events[part.id] = Admitted(part.option.name, predicted, started)
        return events

    def _note(self, step: Step) -> None:
        now, actual_ms = self._times.end(step)
        with self._wake:
            if self._flight is not None:
                self._flight.starts_s = now
            record = StepRecord.of(step, self._scheduler, at_s=now, actual_ms=actual_ms)
        tell(self._observers, lambda observer: observer.stepped(record))
