"""Who does what next: calls wait for a worker of their target, and one thing runs at a time on a physical host.

A call whose worker died goes to another worker, and whose fault it was shows later. If the actor starts again where it
was, its node lives and the call is blamed; if the node is gone, it is not. Two blames, and the call has failed. So a
node that leaves costs no candidate its result, though Ray tells of a dead process sooner than of a dead node.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.pinned_worker import DiedError, PinnedWorker

START_S = 90.0
"""How long an actor's process may take to import torch and build the model."""
RETRY_S = 30.0
"""How long after a failed start an actor is tried again."""
MAX_DEATHS = 2


@dataclass(kw_only=True, eq=False)
class Call:
    """A call to any worker of a target."""

    target: str
    method: str
    arguments: tuple[object, ...]
    result: asyncio.Future[Any]
    suspects: list[PinnedWorker] = field(default_factory=list)
    """Workers that died in it, for a reason that is not known yet."""
    deaths: int = 0
    """Of workers whose nodes live: the call is to blame."""
    last_words: str = ""
    """What Ray said of the last death."""

    @property
    def may_run(self) -> bool:
        return self.deaths + len(self.suspects) < MAX_DEATHS


class Dispatcher:
    """Its methods are called on one event loop."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self.workers: list[PinnedWorker] = []  # all there ever were, in the order in which they came
        self._clock = clock
        self._waiting: list[Call] = []  # oldest first
        self._running: dict[PinnedWorker, Call] = {}
        self._tasks: dict[PinnedWorker, asyncio.Task[None]] = {}  # what a worker does now: a start or a call
        self._busy: dict[str, PinnedWorker] = {}  # by host
        self._held: set[tuple[str, str]] = set()  # a host, and for what

    async def run(self, target: str, method: str, *arguments: object) -> Any:
        """What the method of the target's first idle actor returns, or why it failed. Waits as long as it takes."""
        result = asyncio.get_running_loop().create_future()
        call = Call(target=target, method=method, arguments=arguments, result=result)
        self._waiting.append(call)
        self.dispatch()
        return await result

    def hold(self, host: str, what: str) -> None:
        """Nothing begins on the host until it is released from this: something else of ours runs there."""
        self._held.add((host, what))

    def release(self, host: str, what: str) -> None:
        self._held.discard((host, what))
        self.dispatch()

    def waiting(self) -> Counter[str]:
        """How many calls wait, by target."""
        return Counter(call.target for call in self._waiting if not call.result.done())

    def add(self, worker: PinnedWorker) -> None:
        """Start the worker's actor; in its turn where a worker of the same address has told which host that is."""
        address = worker.node.address
        worker.host = next((other.host for other in self.workers if other.host and other.node.address == address), "")
        self.workers.append(worker)
        self.dispatch()

    def drop(self, worker: PinnedWorker) -> None:
        """The worker's node is gone. What it did goes to another worker, and no call is to blame."""
        if worker in self._tasks:
            self._tasks[worker].cancel()
            self._end(worker)
        call = self._running.pop(worker, None)
        if call is not None:
            self._waiting.insert(0, call)
        self._resolve(worker, blame=False)
        worker.state, worker.problem, worker.lost_s = "lost", "", self._clock()
        worker.tried.set()
        worker.process.stop()
        self.dispatch()

    def dispatch(self) -> None:
        """Begin all that can begin now: starts, then calls from the oldest on."""
        for worker in self.workers:
            is_due = worker.state == "starting" and worker.retry_s <= self._clock()
            if is_due and worker not in self._tasks and self._is_free(worker.host):
                self._begin(worker, self._start(worker))
        self._waiting = [call for call in self._waiting if not call.result.done()]
        for call in [call for call in self._waiting if call.may_run]:
            free = next((worker for worker in self.workers if self._takes(worker, call)), None)
            if free is not None:
                self._waiting.remove(call)
                self._running[free] = call
                free.state, free.measuring_since_s = "measuring", self._clock()
                self._begin(free, self._work(free, call))

    def _takes(self, worker: PinnedWorker, call: Call) -> bool:
        return worker.target == call.target and worker.state == "idle" and self._is_free(worker.host)

    def _is_free(self, host: str) -> bool:
        return host not in self._busy and all(host != held for held, _ in self._held)

    def _begin(self, worker: PinnedWorker, work: Coroutine[Any, Any, None]) -> None:
        if worker.host:
            self._busy[worker.host] = worker
        self._tasks[worker] = asyncio.get_running_loop().create_task(work)

    def _end(self, worker: PinnedWorker) -> None:
        self._tasks.pop(worker)
        self._busy = {host: other for host, other in self._busy.items() if other is not worker}
        if worker.measuring_since_s is not None:
            worker.busy_s += self._clock() - worker.measuring_since_s
            worker.measuring_since_s = None

    async def _work(self, worker: PinnedWorker, call: Call) -> None:
        try:
            result = await worker.process.call(call.method, *call.arguments)
        except DiedError as error:
            worker.state, worker.problem = "starting", "its actor ended, or cannot be reached, and is started again"
            call.suspects.append(worker)
            call.last_words = str(error)
            self._waiting.insert(0, call)
        except Exception as error:  # the caller's to see; here it would end this task, and the call would wait for ever
            worker.state = "idle"
            _settle(call, error)
        else:
            worker.state = "idle"
            worker.measured += 1
            _settle(call, result)
        del self._running[worker]
        self._end(worker)
        self.dispatch()

    async def _start(self, worker: PinnedWorker) -> None:
        try:
            async with asyncio.timeout(START_S):
                host = await worker.process.start()
        except TimeoutError:
            host = Failed(reason=f"its actor did not start within {START_S:.0f} s; is its node still up?")
        except DiedError as error:
            host = Failed(reason=f"its actor died at the start: {error}")
        except Exception as error:  # as above: the worker would stay as it is for ever
            host = Failed(reason=f"its actor could not be started: {error!r}")
        self._end(worker)
        if isinstance(host, Failed):
            worker.problem, worker.retry_s = host.reason, self._clock() + RETRY_S
        else:
            worker.host, worker.state, worker.problem = host, "idle", ""
            worker.started_s = self._clock() if worker.started_s is None else worker.started_s
            self._resolve(worker, blame=True)  # its node lives
        worker.tried.set()
        self.dispatch()

    def _resolve(self, worker: PinnedWorker, *, blame: bool) -> None:
        """It is known now why the worker died in a call: by its node's fault, or by the call's."""
        for call in [*self._waiting, *self._running.values()]:
            if worker in call.suspects:
                call.suspects.remove(worker)
                call.deaths += blame
                if call.deaths >= MAX_DEATHS:
                    _settle(call, Failed(reason=f"its actor died twice: {call.last_words}"))


def _settle(call: Call, outcome: Any) -> None:
    if call.result.done():
        return  # the caller has gone away
    if isinstance(outcome, Exception):
        call.result.set_exception(outcome)
    else:
        call.result.set_result(outcome)
