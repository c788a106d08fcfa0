"""Who does what next: calls wait for a seat of their target, and one thing runs at a time on a physical host.

A call whose seat died goes to another seat, and whose fault it was shows later. If the actor starts again where it
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
from lts_ray.measurement.on_ray.pinned_worker import DiedError, Seat

START_S = 90.0
"""How long an actor's process may take to import torch and build the model."""
RETRY_S = 30.0
"""How long after a failed start an actor is tried again."""
MAX_DEATHS = 2


@dataclass(kw_only=True, eq=False)
class Call:
    """A call to any seat of a target. suspects: seats that died in it, for a reason that is not known yet."""

    target: str
    method: str
    arguments: tuple[object, ...]
    result: asyncio.Future[Any]
    suspects: list[Seat] = field(default_factory=list)
    deaths: int = 0
    last_words: str = ""

    @property
    def may_run(self) -> bool:
        return self.deaths + len(self.suspects) < MAX_DEATHS


class Dispatcher:
    """Its methods are called on one event loop. seats: all there ever were, in the order in which they came."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self.seats: list[Seat] = []
        self._clock = clock
        self._waiting: list[Call] = []  # oldest first
        self._running: dict[Seat, Call] = {}
        self._tasks: dict[Seat, asyncio.Task[None]] = {}  # what a seat does now: a start or a call
        self._busy: dict[str, Seat] = {}  # by host

    async def run(self, target: str, method: str, *arguments: object) -> Any:
        """What the method of the target's first idle actor returns, or why it failed. Waits as long as it takes."""
        result = asyncio.get_running_loop().create_future()
        call = Call(target=target, method=method, arguments=arguments, result=result)
        self._waiting.append(call)
        self.dispatch()
        return await result

    def waiting(self) -> Counter[str]:
        """How many calls wait, by target."""
        return Counter(call.target for call in self._waiting if not call.result.done())

    def add(self, seat: Seat) -> None:
        """Start the seat's actor; in its turn where a seat of the same address has told which host that is."""
        seat.host = next((each.host for each in self.seats if each.host and each.node.address == seat.node.address), "")
        self.seats.append(seat)
        self.dispatch()

    def drop(self, seat: Seat) -> None:
        """The seat's node is gone. What it did goes to another seat, and no call is to blame."""
        if seat in self._tasks:
            self._tasks[seat].cancel()
            self._end(seat)
        call = self._running.pop(seat, None)
        if call is not None:
            self._waiting.insert(0, call)
        self._resolve(seat, blame=False)
        seat.state, seat.problem, seat.lost_s = "lost", "", self._clock()
        seat.tried.set()
        seat.worker.stop()
        self.dispatch()

    def dispatch(self) -> None:
        """Begin all that can begin now: starts, then calls from the oldest on."""
        for seat in self.seats:
            is_due = seat.state == "starting" and seat.retry_s <= self._clock()
            if is_due and seat not in self._tasks and seat.host not in self._busy:
                self._begin(seat, self._start(seat))
        self._waiting = [call for call in self._waiting if not call.result.done()]
        for call in [each for each in self._waiting if each.may_run]:
            free = next((each for each in self.seats if self._is_free(each) and each.target == call.target), None)
            if free is not None:
                self._waiting.remove(call)
                self._running[free] = call
                free.state, free.measuring_since_s = "measuring", self._clock()
                self._begin(free, self._work(free, call))

    def _is_free(self, seat: Seat) -> bool:
        return seat.state == "idle" and seat.host not in self._busy

    def _begin(self, seat: Seat, work: Coroutine[Any, Any, None]) -> None:
        if seat.host:
            self._busy[seat.host] = seat
        self._tasks[seat] = asyncio.get_running_loop().create_task(work)

    def _end(self, seat: Seat) -> None:
        self._tasks.pop(seat)
        self._busy = {host: each for host, each in self._busy.items() if each is not seat}
        if seat.measuring_since_s is not None:
            seat.busy_s += self._clock() - seat.measuring_since_s
            seat.measuring_since_s = None

    async def _work(self, seat: Seat, call: Call) -> None:
        try:
            result = await seat.worker.call(call.method, *call.arguments)
        except DiedError as error:
            seat.state, seat.problem = "starting", "its actor ended, or cannot be reached, and is started again"
            call.suspects.append(seat)
            call.last_words = str(error)
            self._waiting.insert(0, call)
        except Exception as error:  # the caller's to see; here it would end this task, and the call would wait for ever
            seat.state = "idle"
            _settle(call, error)
        else:
            seat.state = "idle"
            seat.measured += 1
            _settle(call, result)
        del self._running[seat]
        self._end(seat)
        self.dispatch()

    async def _start(self, seat: Seat) -> None:
        try:
            async with asyncio.timeout(START_S):
                host = await seat.worker.start()
        except TimeoutError:
            host = Failed(reason=f"its actor did not start within {START_S:.0f} s; is its node still up?")
        except DiedError as error:
            host = Failed(reason=f"its actor died at the start: {error}")
        except Exception as error:  # as above: the seat would stay as it is for ever
            host = Failed(reason=f"its actor could not be started: {error!r}")
        self._end(seat)
        if isinstance(host, Failed):
            seat.problem, seat.retry_s = host.reason, self._clock() + RETRY_S
        else:
            seat.host, seat.state, seat.problem = host, "idle", ""
            seat.started_s = self._clock() if seat.started_s is None else seat.started_s
            self._resolve(seat, blame=True)  # its node lives
        seat.tried.set()
        self.dispatch()

    def _resolve(self, seat: Seat, *, blame: bool) -> None:
        """It is known now why the seat died in a call: by its node's fault, or by the call's."""
        for call in [*self._waiting, *self._running.values()]:
            if seat in call.suspects:
                call.suspects.remove(seat)
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
