"""Continuous batching over one model, in a thread of its own. It knows token ids: no text, no HTTP.

A step is what the scheduler says, at the widths that the policy says. torch runs in this thread only, so the event
loop that serves the clients never waits for it. Each row gets the tokens that `decoding.generate` would give it alone.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

import torch
from torch import Tensor

from lts_ray.decoding.generate import check_length
from lts_ray.decoding.kv_cache import KVCache
from lts_ray.decoding.sampling import sample
from lts_ray.measurement.cost_model import StepCostModel
from lts_ray.models.matformer import MatFormer
from serve import policy
from serve.drift import Drift
from serve.errors import BudgetInfeasibleError, EngineFailedError, QueueFullError
from serve.menu import Menu
from serve.request import Active, Request
from serve.response import Admitted, Ended, Failed, FinishReason, Progress, Response, Token
from serve.scheduler import Scheduler, Step

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3
"""After so many failed steps in a row the engine is unhealthy, and whoever watches it (Ray Serve) starts a new one."""


class Engine:
    """`submit` and the responses belong to an event loop; the steps run in the thread between `start` and `stop`."""

    def __init__(
        self,
        model: MatFormer,
        *,
        menu: Menu,
        step_cost: StepCostModel,
        eos_id: int | None,
        max_batch_size: int = 8,
        max_queue: int = 64,
        threads: int = 1,
        adapts: bool = True,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """clock: seconds, monotonic. threads: torch's, which Ray would otherwise have set to the actor's num_cpus.

        adapts: correct step_cost by the steps that run.
        """
        self.model, self.menu, self.step_cost = model, menu, step_cost
        self.clock, self._eos_id, self._threads = clock, eos_id, threads
        weight = model.embed_tokens.weight
        self._device = weight.device
        self._cache = KVCache.empty(
            model.config,
            rows=max_batch_size,
            length=model.config.context_length,
            dtype=weight.dtype,
            device=weight.device,
        )
        self._drift, self._adapts = Drift(step_cost), adapts
        self._ids = itertools.count()
        self._failed_steps = 0
        self._stopping = False
        self._refusal: str | None = None
        # The lock guards what both threads change: the scheduler, the active requests, the cancellations.
        self._wake = threading.Condition()
        self._scheduler = Scheduler(slots=max_batch_size, max_queue=max_queue)
        self._active: dict[int, Active] = {}
        self._cancelled: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the step in progress; requests that are not done get an error. Returns when the thread is gone."""
        with self._wake:
            self._stopping = True
            self._refusal = "the server is shutting down"
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise EngineFailedError unless the engine works."""
        if self._refusal is not None:
            raise EngineFailedError(self._refusal)
        if self._failed_steps >= MAX_FAILED_STEPS:
            raise EngineFailedError(f"the engine's last {self._failed_steps} steps failed; see the server's log")

    def counts(self) -> tuple[int, int]:
        """Requests that run, and that wait."""
        with self._wake:
            return len(self._scheduler.running), len(self._scheduler.waiting)

    def submit(self, request: Request, *, arrived_s: float | None = None) -> Response:
        """Queue a request; call it on the event loop that will read the response. arrived_s: by the engine's clock.

        Raises QueueFullError, BudgetInfeasibleError for a strict request, EngineFailedError, or LtsRayError for a
        request that can never run; nothing of it is kept then.
        """
        check_length(len(request.prompt), request.max_tokens, self.model.config.context_length)
        self.check()
        now = self.clock()
        arrived_s = now if arrived_s is None else arrived_s
        load = self._load_on_arrival()
        demand = request.demand(waited_ms=(now - arrived_s) * 1e3)
        choice = policy.choose(self.menu, self._drift.cost, load, demand)
        if request.strict and choice.met is False:
            feasible = policy.smallest_feasible_budget_ms(self.menu, self._drift.cost, load, demand)
            raise BudgetInfeasibleError(feasible, retry_after_s=policy.drain_s(self._drift.cost, load))
        generator = torch.Generator()
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed)
        number = next(self._ids)
        active = Active(
            id=number,
            request=request,
            response=Response(arrived_s=arrived_s, cancel=partial(self.cancel, number)),
            progress=Progress(arrived_s=arrived_s),
            option=choice.option,
            generator=generator,
        )
        with self._wake:
            self.check()
            if not self._scheduler.add(number):
                raise QueueFullError(self._scheduler.max_queue, retry_after_s=policy.drain_s(self._drift.cost, load))
            self._active[number] = active
            self._wake.notify()
        return active.response

    def cancel(self, number: int) -> None:
        """The request leaves at the next step boundary, and its place is free again. Unknown ids are no error."""
        with self._wake:
            if number in self._active:
                self._cancelled.add(number)
                self._wake.notify()

    def _load_on_arrival(self) -> policy.Load:
        with self._wake:
            running = [self._active[number] for number in self._scheduler.running]
            waiting = [self._active[number] for number in self._scheduler.waiting]
        return policy.Load(
            slots=self._scheduler.slots,
            running=tuple(active.row(self.menu) for active in running),
            ahead=tuple(active.row(self.menu) for active in waiting),
            steps_before_prefill=1 if running else 0,
        )

    # From here on everything runs in the engine's thread.

    def _run(self) -> None:
        torch.set_num_threads(self._threads)  # per thread: what the caller set does not count here
        try:
            with torch.inference_mode():
                while (step := self._next_step()) is not None:
                    try:
                        self._run_step(step)
                        self._failed_steps = 0
                    except Exception as error:
                        self._failed_steps += 1
                        logger.exception("a %s step of %d requests failed", step.phase, len(step.ids))
                        self._fail(step.ids, f"the step failed: {type(error).__name__}: {error}")
        finally:  # whatever ended the thread, no client waits for ever
            with self._wake:
                self._refusal = self._refusal or "the engine's thread has died; see the server's log"
                left = list(self._active)
            self._fail(left, self._refusal)

    def _next_step(self) -> Step | None:
        """Wait for work. None when the engine is to stop."""
        while True:
            with self._wake:
                while not (self._stopping or self._cancelled or self._scheduler.has_work):
                    self._wake.wait()
                cancelled, self._cancelled = self._cancelled, set()
            for number in cancelled & self._active.keys():
                self._finish(self._active[number], "cancelled")
            with self._wake:
                if self._stopping:
                    return None
                step = self._scheduler.step()
            if step is not None:
                return step

    def _run_step(self, step: Step) -> None:
        actives = [self._active[number] for number in step.ids]
        started = self.clock()
        prefill = step.phase == "prefill"
        logits = self._prefill(actives[0], step.first_row) if prefill else self._decode(actives)
        neurons, contexts = [active.option.neurons for active in actives], [active.context for active in actives]
        now = self.clock()
        for active, row in zip(actives, logits, strict=True):
            self._take(active, sample(row, active.request.sampling, active.generator), now)
        if self._adapts:
            self._drift.note(step.phase, neurons, contexts, actual_ms=(self.clock() - started) * 1e3)

    def _prefill(self, active: Active, row: int) -> Tensor:
        """Returns [1, vocab_size]."""
        with self._wake:
            running = [self._active[number] for number in self._scheduler.running if number != active.id]
            waiting = [self._active[number] for number in self._scheduler.waiting]
        load = policy.Load(
            slots=self._scheduler.slots,
            running=tuple(each.row(self.menu) for each in running),
            behind=tuple(each.row(self.menu) for each in waiting),
        )
        demand = active.request.demand(waited_ms=(self.clock() - active.progress.arrived_s) * 1e3)
        choice = policy.choose(self.menu, self._drift.cost, load, demand)
        active.option = choice.option
        self._push(active, Admitted(choice.option.name, choice.predicted))
        cache = self._cache.rows(row, row + 1)
        cache.truncate(0, 0)
        tokens = torch.tensor([active.request.prompt], device=self._device)
        logits: Tensor = self.model(tokens, submodel=active.option.submodel, cache=cache, last_only=True)
        return logits[:, -1]

    def _decode(self, actives: Sequence[Active]) -> Tensor:
        """One token for every row in use. Returns [rows, vocab_size]."""
        self._narrow(actives)
        submodels = [active.option.submodel for active in actives]
        tokens = torch.tensor([[active.last_token] for active in actives], device=self._device)
        logits: Tensor = self.model(
            tokens,
            submodel=submodels[0] if len(set(submodels)) == 1 else submodels,
            cache=self._cache.rows(0, len(actives)),
            last_only=True,
        )
        return logits[:, -1]

    def _narrow(self, actives: Sequence[Active]) -> None:
        """Every width shares one cache layout, so a row may change its submodel in the middle of its response."""
        now = self.clock()
        with self._wake:
            free = self._scheduler.slots - len(actives)
            joining = [self._active[number].row(self.menu) for number in self._scheduler.waiting[:free]]
        stall_ms = policy.prefills_ms(self._drift.cost, joining, self.menu.universal.neurons)
        rows = [active.running(now) for active in actives]
        for active, option in zip(
            actives, policy.replan(self.menu, self._drift.cost, rows, stall_ms=stall_ms), strict=True
        ):
            active.option = option

    def _take(self, active: Active, token: int, now: float) -> None:
        if token == self._eos_id:
            self._finish(active, "stop", now)
            return
        active.last_token = token
        self._push(active, Token(token, active.option.name, now))
        if active.remaining == 0:
            self._finish(active, "length", now)

    def _push(self, active: Active, event: Admitted | Token | Ended) -> None:
        active.progress.note(event)
        if not active.response.push(event):
            self.cancel(active.id)

    def _finish(self, active: Active, reason: FinishReason, now: float | None = None) -> None:
        self._leave(active.id)
        self._push(active, Ended(reason, self.clock() if now is None else now))
        progress = active.progress
        predicted, measured = progress.predicted, progress.measured()
        logger.info(
            "request %s: %s after %d + %d tokens at %s, predicted %s ms, actual %s ms, budget %s ms",
            active.request.label,
            reason,
            len(active.request.prompt),
            progress.tokens,
            dict(progress.submodels),
            predicted and predicted.to_json(),
            measured and measured.to_json(),
            active.request.budget.items() or None,
        )

    def _fail(self, numbers: Sequence[int], message: str) -> None:
        for number in numbers:
            if number in self._active:  # a request that had ended before the step failed has its answer
                response = self._active[number].response
                self._leave(number)
                response.push(Failed(message))

    def _leave(self, number: int) -> None:
        with self._wake:
            move = self._scheduler.remove(number)
            self._active.pop(number, None)
        if move is not None:
            self._cache.move(move.source, move.destination)
