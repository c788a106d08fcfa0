"""The dispatcher with processes in this process: no clock, no cluster, and every order of events is the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.actor import host_identity
from lts_ray.measurement.on_ray.dispatcher import RETRY_S, Dispatcher
from lts_ray.measurement.on_ray.pinned_worker import DiedError, PinnedWorker
from lts_ray.measurement.on_ray.pool import MeasurementPool
from lts_ray.measurement.on_ray.selector import ClusterNode
from lts_ray.measurement.subjects.subject import BackboneSource
from lts_ray.measurement.workload import Workload
from lts_ray.target import Target


class FakeProcess:
    """Starts and calls that end when the test says so. calls: the arguments of each call, in order."""

    def __init__(self, host: str) -> None:
        self.host, self.starts, self.stops, self.calls = host, 0, 0, list[object]()
        self._now: asyncio.Future[Any] | None = None

    async def start(self) -> str | Failed:
        self.starts += 1
        outcome: str | Failed = await self._wait()
        return outcome

    async def call(self, method: str, *arguments: object) -> Any:
        self.calls.append(arguments[0])
        return await self._wait()

    def stop(self) -> None:
        self.stops += 1

    @property
    def is_busy(self) -> bool:
        return self._now is not None and not self._now.done()

    async def ready(self) -> None:
        await self.end(self.host)

    async def end(self, outcome: object) -> None:
        """End what it does now, and let all that follows from it happen."""
        assert self._now is not None
        assert not self._now.done()
        if isinstance(outcome, Exception):
            self._now.set_exception(outcome)
        else:
            self._now.set_result(outcome)
        await settle()

    async def _wait(self) -> Any:
        self._now = asyncio.get_running_loop().create_future()
        return await self._now


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Stage:
    """A dispatcher and its fake processes, a worker for each (target, node, host)."""

    def __init__(self, *workers: tuple[str, str, str]) -> None:
        self.clock = Clock()
        self.dispatcher = Dispatcher(clock=self.clock)
        self.processes: list[FakeProcess] = []
        self.add(*workers)

    def add(self, *workers: tuple[str, str, str]) -> None:
        for target, name, host in workers:
            process = FakeProcess(host)
            self.processes.append(process)
            node = ClusterNode(node_id=name, labels={}, resources={}, address=host)
            self.dispatcher.add(PinnedWorker(target=target, label=target, node=node, process=process))

    async def ready(self) -> list[FakeProcess]:
        await settle()
        for process in self.processes:
            await process.ready()
        return self.processes

    def ask(self, target: str, *candidates: object) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.dispatcher.run(target, "measure", each)) for each in candidates]

    def drop(self, index: int) -> None:
        self.dispatcher.drop(self.dispatcher.workers[index])


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene())


def test_calls_are_spread_over_the_seats_of_their_target_oldest_first() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"), ("edge", "b", "2"), ("server", "c", "3"))
        a, b, c = await stage.ready()
        asked = stage.ask("edge", 1, 2, 3)
        await settle()
        assert (a.calls, b.calls, c.calls) == ([1], [2], [])
        await b.end("two")
        assert b.calls == [2, 3]
        await a.end("one")
        await b.end("three")
        assert [await each for each in asked] == ["one", "two", "three"]
        assert [worker.measured for worker in stage.dispatcher.workers] == [1, 2, 0]

    play(scene)


def test_seats_on_one_host_take_turns_over_all_targets() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"), ("server", "b", "1"), ("server", "c", "2"))
        a, b, c = await stage.ready()
        stage.ask("server", 1, 2)
        await settle()
        stage.ask("edge", 3)
        await settle()
        assert (a.calls, b.calls, c.calls) == ([], [1], [2])
        await c.end("two")
        assert a.calls == []
        await b.end("one")
        assert a.calls == [3]

    play(scene)


def test_a_loss_and_a_measurement_of_one_host_take_turns_and_those_of_two_overlap() -> None:
    async def scene() -> None:
        stage = Stage(("validation loss", "a", "1"), ("edge", "b", "1"), ("server", "c", "2"))
        loss, edge, server = await stage.ready()
        for target in ("validation loss", "edge", "server"):
            stage.ask(target, 1)
        await settle()
        assert (loss.is_busy, edge.is_busy, server.is_busy) == (True, False, True)
        stage.ask("validation loss", 2)
        await loss.end(2.5)
        assert (loss.is_busy, edge.is_busy, server.is_busy) == (False, True, True)
        await edge.end("one")
        assert (loss.is_busy, edge.is_busy, server.is_busy) == (True, False, True)

    play(scene)


def test_nothing_begins_on_the_drivers_host_while_the_process_of_a_trial_starts_there() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", host_identity()), ("server", "b", "another"))
        edge, server = await stage.ready()
        targets = tuple(Target(name=name, label_selector={"role": name}) for name in ("edge", "server"))
        pool = MeasurementPool(
            Workload(source=BackboneSource(backbone="gpt2", vocab_size=8, context_length=8), actor_class=Clock),
            targets,
            "driver",
        )
        pool._dispatcher = stage.dispatcher
        await pool.offer("first", 1, 0.5)
        await pool.offer("second", 2, 0.5)
        taken = asyncio.create_task(pool.take("first"))
        await settle()
        assert (edge.is_busy, server.is_busy) == (False, True)  # the second's trial is not there yet
        await pool.offer("third", None)
        assert not edge.is_busy
        second = asyncio.create_task(pool.take("second"))
        await settle()
        assert (edge.calls, edge.is_busy) == ([1], True)
        await edge.end(Failed(reason="told to"))
        await pool.offer("fourth", 4, 0.5)  # of a trial that Tune cannot start
        await edge.end(Failed(reason="told to"))
        fifth = asyncio.create_task(pool.evaluate(5, 0.5))
        await settle()
        assert not edge.is_busy
        await pool.offer("fourth", None)
        await settle()
        assert edge.calls == [1, 2, 5]
        for task in (taken, second, fifth):
            task.cancel()

    play(scene)


def test_a_start_on_a_host_that_measures_waits_for_its_turn_and_then_goes_first() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"))
        (a,) = await stage.ready()
        stage.ask("edge", 1, 2)
        await settle()
        stage.add(("edge", "b", "1"))
        await settle()
        b = stage.processes[1]
        assert b.starts == 0
        await a.end("one")
        assert b.starts == 1
        assert not a.is_busy
        await b.ready()
        assert a.calls == [1, 2]

    play(scene)


def test_a_call_whose_node_left_is_done_by_another_seat_once() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"), ("edge", "b", "2"))
        a, b = await stage.ready()
        (first, second) = stage.ask("edge", 1, 2)
        await settle()
        stage.drop(0)
        await b.end("two")
        assert b.calls == [2, 1]
        assert a.stops == 1
        assert not a.is_busy
        await b.end("one")
        assert (await first, await second) == ("one", "two")
        assert [worker.measured for worker in stage.dispatcher.workers] == [0, 2]
        assert [worker.state for worker in stage.dispatcher.workers] == ["lost", "idle"]

    play(scene)


def test_a_call_waits_when_the_last_seat_left_until_a_node_joins() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"))
        await stage.ready()
        (asked,) = stage.ask("edge", 1)
        await settle()
        stage.drop(0)
        await settle()
        assert stage.dispatcher.waiting() == {"edge": 1}
        stage.add(("edge", "b", "1"))
        await settle()
        await stage.processes[1].ready()
        assert stage.dispatcher.waiting() == {}
        await stage.processes[1].end("one")
        assert await asked == "one"

    play(scene)


def test_a_call_whose_actor_dies_twice_on_a_living_node_has_failed() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"))
        (a,) = await stage.ready()
        first, second = stage.ask("edge", 1, 2)
        await settle()
        for _ in range(2):
            await a.end(DiedError("killed"))
            assert not first.done()
            await a.ready()
        assert await first == Failed(reason="its actor died twice: killed")
        assert a.calls == [1, 1, 2]
        assert a.starts == 3
        await a.end("two")
        assert await second == "two"

    play(scene)


def test_deaths_with_a_node_are_no_ones_fault_however_many() -> None:
    """Ray tells of the actor first, and of its node later: the call must not be blamed in between."""

    async def scene() -> None:
        stage = Stage(*(("edge", name, name) for name in "abcd"))
        processes = await stage.ready()
        (asked,) = stage.ask("edge", 1)
        await settle()
        for index in range(3):
            await processes[index].end(DiedError("unreachable"))
            stage.drop(index)
            await settle()
        await processes[3].end("one")
        assert await asked == "one"

    play(scene)


def test_after_two_deaths_of_unknown_cause_a_call_waits_for_the_verdict() -> None:
    async def scene(*, node_left: bool) -> None:
        stage = Stage(*(("edge", name, name) for name in "abc"))
        a, b, c = await stage.ready()
        (asked,) = stage.ask("edge", 1)
        await settle()
        await a.end(DiedError("unreachable"))
        await b.end(DiedError("unreachable"))
        assert c.calls == []
        await a.ready()
        assert a.calls == [1]
        if node_left:
            stage.drop(1)
            await settle()
            assert a.calls == [1, 1]
            await a.end("one")
            assert await asked == "one"
        else:
            await b.ready()
            assert isinstance(await asked, Failed)

    play(lambda: scene(node_left=True))
    play(lambda: scene(node_left=False))


def test_the_verdict_on_a_death_counts_while_the_call_runs_elsewhere() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"), ("edge", "b", "2"))
        a, b = await stage.ready()
        (asked,) = stage.ask("edge", 1)
        await settle()
        await a.end(DiedError("killed"))
        assert b.calls == [1]
        await a.ready()
        await b.end(DiedError("killed"))
        assert a.calls == [1]
        await b.ready()
        assert isinstance(await asked, Failed)

    play(scene)


@pytest.mark.parametrize("outcome", [DiedError("killed"), Failed(reason="no GPU"), ValueError("bad")], ids=repr)
def test_an_actor_that_does_not_start_is_tried_again_later(outcome: object) -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"))
        (worker,) = stage.dispatcher.workers
        (asked,) = stage.ask("edge", 1)
        await settle()
        (a,) = stage.processes
        await a.end(outcome)
        assert worker.tried.is_set()
        assert worker.problem
        stage.dispatcher.dispatch()
        await settle()
        assert a.starts == 1
        stage.clock.now_s += RETRY_S
        stage.dispatcher.dispatch()
        await settle()
        await a.ready()
        assert worker.problem == ""
        await a.end("one")
        assert await asked == "one"

    play(scene)


def test_an_error_of_the_call_itself_reaches_the_caller_and_frees_the_seat() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"))
        (a,) = await stage.ready()
        first, second = stage.ask("edge", 1, 2)
        await settle()
        await a.end(TypeError("cannot be sent"))
        with pytest.raises(TypeError, match="cannot be sent"):
            await first
        await a.end("two")
        assert await second == "two"

    play(scene)


def test_a_call_whose_caller_went_away_is_not_begun() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"))
        (a,) = await stage.ready()
        running, waiting, last = stage.ask("edge", 1, 2, 3)
        await settle()
        running.cancel()
        waiting.cancel()
        await settle()
        assert stage.dispatcher.waiting() == {"edge": 1}
        await a.end("one")
        assert a.calls == [1, 3]
        await a.end("three")
        assert await last == "three"

    play(scene)


def test_busy_time_is_what_calls_took_and_a_lost_seat_keeps_its_figures() -> None:
    async def scene() -> None:
        stage = Stage(("edge", "a", "1"))
        (worker,) = stage.dispatcher.workers
        assert worker.status(0.0).utilisation == 0
        (a,) = await stage.ready()
        stage.clock.now_s = 10
        stage.ask("edge", 1, 2)
        await settle()
        stage.clock.now_s = 14
        assert worker.status(14).busy_s == 4
        await a.end("one")
        stage.clock.now_s = 20
        stage.drop(0)
        status = worker.status(1000)
        assert (status.state, status.measured, status.busy_s, status.utilisation) == ("lost", 1, 10, 0.5)

    play(scene)
