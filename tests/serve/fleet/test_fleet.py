"""A fleet over tiny engines: every response is what one engine gives, whatever becomes of the replicas meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.segment import Segment
from serve.engine.engine_errors import BudgetInfeasibleError, EngineFailedError, QueueFullError
from serve.engine.fleet_observer import FleetObserver, MigrationReason
from serve.engine.hold import Hold
from serve.engine.observer import Refusal
from serve.engine.response import Response
from serve.fleet import replica_link, replica_server, replicas
from serve.policies.budget import Budget
from serve.policies.request import Request
from serve.routing import shortlist
from serve.routing.budget_router import BudgetRouter
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Route
from tests.serve.fleet.fleets import HANG_S, TinyReplica, tiny_fleet
from tests.serve.models import COSTS, Notes, alone, collect, tiny_engine, tiny_menu, tiny_model, tiny_runtime

pytestmark = pytest.mark.anyio
MENU = tiny_menu()
PROMPT = tuple(range(5, 25))
LONG = Request(prompt=PROMPT, max_tokens=60, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> MatFormer:
    return tiny_model()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed sooner, for the sake of the tests' time; a step that stands still is none that hangs; and the
    tokens of a step go out with it, though no other follows."""
    monkeypatch.setattr(replica_server, "STUCK_S", 1e9)
    monkeypatch.setattr("serve.engine.response.STREAM_S", 0.0)
    monkeypatch.setattr(replica_link, "SUSPECT_S", 0.5)
    monkeypatch.setattr(replicas, "SILENT_S", 1.0)
    monkeypatch.setattr(replica_server, "REPORT_S", 0.05)
    monkeypatch.setattr(replicas, "LOOK_S", 0.05)
    monkeypatch.setattr(replicas, "TICK_S", 0.02)


class Told(FleetObserver):
    def __init__(self) -> None:
        self.placements: list[str] = []
        self.moves: list[tuple[str, MigrationReason]] = []
        self.refusals: list[Refusal] = []

    def placed(self, kind: str) -> None:
        self.placements.append(kind)

    def migrated(self, kind: str, reason: MigrationReason) -> None:
        self.moves.append((kind, reason))

    def refused(self, reason: Refusal) -> None:
        self.refusals.append(reason)


def where(response: Response) -> list[str]:
    return [place.replica for place in response.progress.places]


async def reading(response: Response, tokens: int) -> tuple[list[int], asyncio.Task[list[int]]]:
    """Wait for so many tokens; the list goes on growing, and the task has them all in the end."""
    got: list[int] = []

    async def read() -> list[int]:
        async for new in response:
            got.extend(token.id for token in new)
        return got

    task = asyncio.create_task(read())
    async with asyncio.timeout(HANG_S):
        while len(got) < tokens and not task.done():
            await asyncio.sleep(0.002)
    return got, task


async def undisturbed(model: MatFormer, *requests: Request) -> list[list[int]]:
    """What one engine gives for each, which other tests compare with the plain loop."""
    engine = tiny_engine(tiny_runtime(model, n_blocks=64))
    engine.start()
    try:
        return [await collect(engine.submit(request)) for request in requests]
    finally:
        await asyncio.to_thread(engine.stop)


def requests_of_all_kinds() -> list[Request]:
    return [
        Request(prompt=PROMPT[: 3 + index], max_tokens=4 + 3 * index, seed=index, **settings)
        for index, settings in enumerate(
            [
                {},
                {"pinned": MENU.named["S"]},
                {"sampling": Sampling(temperature=0.7, top_p=0.9)},
                {"sampling": Sampling(temperature=0.5, frequency_penalty=0.5), "whole": True},
                {"pinned": MENU.named["M"], "whole": True},
                {"top_logprobs": 2},
            ]
        )
    ]


async def test_each_response_is_what_one_engine_gives(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        await tiny.add("a")
        await tiny.add("b", kind="large")
        await tiny.has("a", "b")
        requests = requests_of_all_kinds() * 2
        responses = [tiny.fleet.submit(request) for request in requests]
        assert await asyncio.gather(*map(collect, responses)) == await undisturbed(model, *requests)
        assert {name for response in responses for name in where(response)} == {"a", "b"}
        for response, request in zip(responses, requests, strict=True):
            progress = response.progress
            assert progress.predicted is not None
            assert progress.measured() is not None
            assert 0 < progress.measured().ttft_ms <= progress.measured().e2e_ms < 600_000
            if request.pinned is not None:
                assert set(progress.submodels) == {request.pinned.name}
        assert tiny.fleet.counts() == (0, 0)


async def kill(replica: TinyReplica) -> None:
    await replica.die()


async def cut(replica: TinyReplica) -> None:
    replica.wire.cut()


async def stop_the_engine(replica: TinyReplica) -> None:
    stopping = asyncio.create_task(asyncio.to_thread(replica.engine.stop))
    while replica.engine._health.refusal is None:
        await asyncio.sleep(0.002)
    replica.runtime.allow()
    await stopping


async def freeze(replica: TinyReplica) -> None:
    replica.wire.flows.clear()


FAULTS = {"killed": kill, "cut off": cut, "its engine gone": stop_the_engine, "silent": freeze}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_what_a_lost_replica_had_goes_on_elsewhere_token_by_token(model: MatFormer, fault: Callable) -> None:
    told = Told()
    async with tiny_fleet(model, observer=told) as tiny:
        first = await tiny.add("first", kind="one", steps=8)
        await tiny.has("first")
        sampled = Sampling(temperature=0.8, presence_penalty=0.3)
        requests = [
            LONG,
            replace(LONG, sampling=sampled, seed=7),
            replace(LONG, pinned=MENU.named["S"], top_logprobs=1),
            replace(LONG, whole=True, sampling=sampled, seed=8),
        ]
        responses = [tiny.fleet.submit(request) for request in requests]
        got, task = await reading(responses[0], 5)
        others = [asyncio.create_task(collect(response)) for response in responses[1:]]
        await tiny.add("second", kind="two")
        await tiny.has("first", "second")
        assert len(got) < LONG.max_tokens
        await fault(first)
        first.runtime.allow()
        assert [await task, *await asyncio.gather(*others)] == await undisturbed(model, *requests)
        assert [where(response) for response in responses] == [["first", "second"]] * 4
        assert [response.finish_reason for response in responses] == ["length"] * 4
        assert [response.progress.tokens for response in responses] == [60] * 4
        assert told.placements == ["one"] * 4 + ["two"] * 4
        assert {kind for kind, _ in told.moves} == {"one"}
        assert {reason for _, reason in told.moves} == {"silent" if fault is freeze else "died"}


async def test_a_replica_that_speaks_again_is_used_again_and_says_nothing_twice(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        notes = Notes()
        first = await tiny.add("first", steps=8, observers=[notes])
        await tiny.has("first")
        response = tiny.fleet.submit(LONG)
        _, task = await reading(response, 5)
        await tiny.add("second")
        await tiny.has("first", "second")
        first.wire.flows.clear()
        await tiny.has("second")
        first.runtime.allow()
        assert await task == alone(model, LONG, ())
        first.wire.flows.set()
        await tiny.has("first", "second")
        await tiny.until(lambda: first.engine.counts() == (0, 0))  # it was told that its request has left
        assert len(response.progress.places) == 2
        await tiny.until(lambda: notes.ends)
        assert [reason for _, _, reason in notes.ends] in (["moved"], ["length"]), (
            "its end is counted elsewhere, if it can"
        )
        again = [tiny.fleet.submit(LONG) for _ in range(4)]
        assert await asyncio.gather(*map(collect, again)) == [alone(model, LONG, ())] * 4
        assert {name for each in again for name in where(each)} == {"first", "second"}


async def test_an_ingress_that_was_stopped_itself_takes_no_replica_for_silent(model: MatFormer) -> None:
    now = [100.0]
    async with tiny_fleet(model, clock=lambda: now[0]) as tiny:
        await tiny.add("only")
        await tiny.has("only")
        now[0] += 30.0
        tiny.fleet._replicas.tick()
        await tiny.has("only")


async def test_after_so_many_migrations_there_is_an_explicit_error(model: MatFormer) -> None:
    async with tiny_fleet(model, max_migrations=1) as tiny:
        for name in ("a", "b"):
            await tiny.add(name, steps=6)
        await tiny.has("a", "b")
        response = tiny.fleet.submit(LONG)
        got, task = await reading(response, 3)
        await tiny.replicas[where(response)[0]].die()
        await tiny.until(lambda: len(got) > 8 and len(where(response)) == 2)
        await tiny.replicas[where(response)[1]].die()
        with pytest.raises(EngineFailedError, match="lost, 2 times: send it again"):
            await task
        assert got == alone(model, LONG, ())[: len(got)]


async def test_a_step_that_fails_is_the_request_s_own_affair(model: MatFormer) -> None:
    """It would fail elsewhere too."""
    async with tiny_fleet(model) as tiny:
        replica = await tiny.add("a", steps=4)
        await tiny.add("b", steps=4)
        await tiny.has("a", "b")
        response = tiny.fleet.submit(LONG)
        _, task = await reading(response, 3)
        broken = tiny.replicas[where(response)[0]].runtime
        run = broken.run

        def fail_once(segments: object) -> None:
            broken.run = run
            raise RuntimeError("no such matrix")

        broken.run = fail_once
        broken.allow()
        with pytest.raises(EngineFailedError, match="no such matrix"):
            await task
        assert len(where(response)) == 1
        assert replica.server.failure() is None


async def test_a_request_for_which_no_replica_can_be_chosen_fails_alone(model: MatFormer) -> None:
    class Picky(BudgetRouter):
        def route(self, request: Request, *given: Any, **named: Any) -> Route:
            if request.label == "odd":
                raise ZeroDivisionError("float division by zero")
            return super().route(request, *given, **named)

    async with tiny_fleet(model, router=Picky()) as tiny:
        odd, even = tiny.fleet.submit(replace(LONG, label="odd")), tiny.fleet.submit(LONG)
        await tiny.add("late")
        with pytest.raises(EngineFailedError, match="choosing a replica failed: ZeroDivisionError"):
            await collect(odd)
        assert await collect(even) == alone(model, LONG, ())


async def test_without_a_replica_requests_wait_for_one(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        response = tiny.fleet.submit(LONG)
        whole = tiny.fleet.submit(replace(LONG, whole=True))
        assert tiny.fleet.counts() == (0, 2)
        await tiny.add("late")
        assert await asyncio.gather(collect(response), collect(whole)) == [alone(model, LONG, ())] * 2


async def test_a_replica_that_is_to_leave_gets_nothing_new_and_ends_what_it_has(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        leaving = await tiny.add("leaving", steps=3)
        await tiny.has("leaving")
        response = tiny.fleet.submit(LONG)
        _, task = await reading(response, 2)
        drained = asyncio.create_task(leaving.server.drain(HANG_S))
        await tiny.until(lambda: tiny.fleet.load().replicas == {("small", "draining"): 1})
        alone_there = tiny.fleet.submit(LONG)  # there is no other one
        await tiny.add("staying")
        await tiny.has("staying")
        new = tiny.fleet.submit(LONG)
        leaving.runtime.allow()
        assert await asyncio.gather(task, collect(alone_there), collect(new)) == [alone(model, LONG, ())] * 3
        assert [where(each) for each in (response, alone_there, new)] == [["leaving"], ["leaving"], ["staying"]]
        async with asyncio.timeout(HANG_S):
            await drained


async def test_what_does_not_drain_in_time_goes_on_elsewhere(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        left, stayed = Notes(), Notes()
        leaving = await tiny.add("leaving", steps=3, observers=[left])
        await tiny.has("leaving")
        response = tiny.fleet.submit(LONG)
        _, task = await reading(response, 2)
        await tiny.add("staying", observers=[stayed])
        await tiny.has("leaving", "staying")
        await leaving.server.drain(0.1)
        await leaving.server.stop()
        leaving.runtime.allow()
        assert await task == alone(model, LONG, ())
        assert where(response) == ["leaving", "staying"]
        await tiny.until(lambda: left.ends and stayed.ends)
        assert [reason for _, _, reason in (*left.ends, *stayed.ends)] == ["moved", "length"], "it ended once"


async def test_a_client_that_leaves_frees_its_row_and_so_does_an_ingress(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        replica = await tiny.add("a", steps=3)
        await tiny.has("a")
        response = tiny.fleet.submit(LONG)
        _, task = await reading(response, 2)
        response.cancel()
        await tiny.until(lambda: replica.engine.counts() == (0, 0))
        assert tiny.fleet.counts() == (0, 0)
        task.cancel()
        replica.runtime.allow(4)  # one of which may be what is begun
        left = tiny.fleet.submit(LONG)
        _, task = await reading(left, 2)
        tiny.fleet._replicas["a"].close()
        replica.runtime.allow()
        await tiny.until(lambda: replica.engine.counts() == (0, 0) or len(where(left)) == 2)
        assert await task == alone(model, LONG, ())


async def test_full_queues_are_refused_and_so_are_strict_budgets_that_no_replica_keeps(model: MatFormer) -> None:
    told = Told()
    async with tiny_fleet(model, observer=told) as tiny:
        replica = await tiny.add("a", steps=1, slots=1, max_queue=1)
        await tiny.has("a")
        held = [tiny.fleet.submit(LONG)]
        await tiny.until(lambda: tiny.fleet.counts() == (1, 0))
        held.append(tiny.fleet.submit(LONG))
        with pytest.raises(QueueFullError):
            tiny.fleet.submit(LONG)
        for response in held:
            response.cancel()
        replica.runtime.allow()
        await tiny.until(lambda: not tiny.fleet._replicas["a"].mirror.numbers)
        with pytest.raises(BudgetInfeasibleError) as refused:
            tiny.fleet.submit(replace(LONG, budget=Budget(e2e_ms=1.0), strict=True))
        feasible = refused.value.smallest_feasible_ms["e2e"]
        tiny.fleet.submit(replace(LONG, budget=Budget(e2e_ms=feasible * 1.05), strict=True)).cancel()
        assert told.refusals == ["queue_full", "infeasible"]
        await tiny.add("b", n_blocks=2)
        await tiny.replicas["a"].die()
        await tiny.has("b")
        with pytest.raises(LtsRayError, match="fit into no replica"):
            tiny.fleet.submit(LONG)


async def test_the_budget_decides_the_kind(model: MatFormer) -> None:
    """A dear quick kind and a cheap slow one: who has time gets the cheap one, at the same quality."""
    quick = COSTS.scaled(0.25)
    async with tiny_fleet(model) as tiny:
        await tiny.add("slow", kind="slow", cost=1.0)
        await tiny.add("quick", kind="quick", cost=4.0, costs=quick)
        await tiny.has("slow", "quick")
        patient = tiny.fleet.submit(replace(LONG, budget=Budget(e2e_ms=60_000)))
        hasty = tiny.fleet.submit(replace(LONG, budget=Budget(e2e_ms=60 * 21.2 * 0.5)))
        await asyncio.gather(collect(patient), collect(hasty))
        assert [where(patient), where(hasty)] == [["slow"], ["quick"]]


async def test_two_ingresses_see_each_other_s_requests(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny, tiny_fleet(model, registry=tiny.registry) as other:
        replica = await tiny.add("a", steps=2)
        await tiny.has("a")
        await other.has("a")
        offset_s = tiny.fleet._replicas["a"].offset_s
        response = tiny.fleet.submit(replace(LONG, budget=Budget(e2e_ms=9_000)))
        link = other.fleet._replicas["a"]
        mirror = link.mirror
        assert mirror is not None
        await tiny.until(lambda: mirror.view(0.0).load == 1)
        job = mirror.view(0.0).situation.jobs[0]
        assert (len(job.request.prompt), job.request.max_tokens, job.elastic) == (20, 60, True)
        due_s = response.progress.arrived_s + 9 - offset_s + link.offset_s  # what the ways there and back took included
        assert job.due_ms == pytest.approx(due_s * 1e3, abs=1e-3)
        replica.runtime.allow()
        assert await collect(response)
        await tiny.until(lambda: mirror.view(0.0).load == 0)


async def test_a_config_reaches_replicas_that_are_there_and_those_that_come(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        await tiny.add("a")
        await tiny.has("a")
        tiny.fleet.use_config({"policy": "smallest"})
        await tiny.add("b")
        await tiny.until(lambda: all(each.configs == [{"policy": "smallest"}] for each in tiny.replicas.values()))


async def test_replicas_of_another_model_and_those_that_lie_are_left_alone(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        await tiny.add("other", fingerprint="another model")
        wrong = await tiny.add("wrong")
        tiny.registry.put(replace(wrong.address, secret="guessed"))
        await tiny.add("right")
        await tiny.has("right")
        await asyncio.sleep(0.3)
        await tiny.has("right")


async def test_nonsense_ends_a_connection_and_nothing_else(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        replica = await tiny.add("a", steps=2)
        await tiny.has("a")
        response = tiny.fleet.submit(LONG)
        for line in (b"\n", b"hello\n", b"[]\n", b'{"hello":"x"}\n', b'{"submit":1}\n', b"\xff\xfe\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", replica.address.port)
            writer.write(line)
            assert await reader.read() == b""
            writer.close()
        replica.runtime.allow()
        assert await collect(response) == alone(model, LONG, ())


async def test_an_engine_that_ends_no_step_takes_nothing_and_an_idle_one_is_not_taken_for_it(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the engine's clock, which is set."""
    monkeypatch.setattr(replica_server, "STUCK_S", 1.5)
    monkeypatch.setattr(replica_server, "STUCK_STEPS", 0)
    now = [0.0]
    async with tiny_fleet(model) as tiny:
        first = await tiny.add("first", clock=lambda: now[0])
        await tiny.has("first")
        now[0] += 3600
        response = tiny.fleet.submit(LONG)
        assert await collect(response) == alone(model, LONG, ())
        assert where(response) == ["first"]
        first.runtime.allow(0)
        response = tiny.fleet.submit(LONG)
        await tiny.until(lambda: first.engine.counts() != (0, 0))
        await tiny.add("second")
        mirror = tiny.fleet._replicas["first"].mirror
        assert mirror is not None
        while mirror.report.failure is None:
            now[0] += replica_server.STALL_S / 2  # where more passes between two reports, the whole process stood still
            await tiny.until(lambda: mirror.report.now_s == now[0])
        assert await collect(response) == alone(model, LONG, ())
        assert where(response) == ["first", "second"]
        first.runtime.allow()
        await tiny.has("first", "second")


async def test_requests_that_are_read_together_start_together(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to read them."""
    monkeypatch.setitem(Hold.wait.__kwdefaults__, "seconds", 3600.0)
    async with tiny_fleet(model) as tiny:
        replica = await tiny.add("a", slots=4)
        await tiny.has("a")
        steps: list[int] = []
        run = replica.runtime.run

        def counted(segments: Sequence[Segment]) -> Tensor:
            steps.append(len(segments))
            return run(segments)

        replica.runtime.run = counted  # type: ignore[method-assign]
        with tiny.fleet.hold, tiny.fleet.hold:
            responses = [tiny.fleet.submit(replace(LONG, max_tokens=2)) for _ in range(4)]
            gone = responses.pop()
            gone.cancel()
        assert await asyncio.gather(*map(collect, responses)) == [alone(model, replace(LONG, max_tokens=2), ())] * 3
        assert steps == [3, 3]
        await tiny.until(lambda: tiny.fleet._replicas["a"].mirror.numbers == ())
        assert gone.progress.tokens == 0


async def test_those_that_wait_for_a_place_get_it_by_priority(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        responses = [tiny.fleet.submit(replace(LONG, priority=priority)) for priority in (5, 0, -1, 0)]
        ended: list[int] = []

        async def read(number: int) -> None:
            await collect(responses[number])
            ended.append(number)

        reading_all = [asyncio.create_task(read(number)) for number in range(4)]
        await tiny.add("a", slots=1, max_queue=1)
        await asyncio.gather(*reading_all)
        assert ended == [2, 1, 3, 0]


async def test_none_that_comes_goes_before_those_that_wait_for_a_place(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "TICK_S", 60)  # only what comes makes the fleet look
    monkeypatch.setattr(replica_link, "SUSPECT_S", 60)
    async with tiny_fleet(model) as tiny:
        waiting = [tiny.fleet.submit(LONG) for _ in range(3)]
        await tiny.add("a", steps=1, slots=1, max_queue=1)
        await tiny.until(lambda: tiny.fleet.counts() == (1, 2))
        with pytest.raises(QueueFullError):
            tiny.fleet.submit(LONG)
        assert [routed.response for routed in tiny.fleet._placed.values()] == waiting[:2]


class Shown(BudgetRouter):
    """Notes what it is shown."""

    def route(self, request: Request, replicas: Sequence[ReplicaView], **named: Any) -> Route:
        SEEN.append([view.id for view in replicas])
        return super().route(request, replicas, **named)


SEEN: list[list[str]] = []


async def test_of_many_replicas_a_request_is_shown_some_that_take_it(
    model: MatFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("SHOWN", "FEW", "DRAWN"):
        monkeypatch.setattr(shortlist, what, 1)
    SEEN.clear()
    async with tiny_fleet(model, router=Shown()) as tiny:
        for name in ("a", "b", "c"):
            await tiny.add(name, slots=1, max_queue=1)
        await tiny.has("a", "b", "c")
        request = Request(prompt=tuple(range(40)), max_tokens=5, ignore_eos=True)
        first = tiny.fleet.submit(request)
        assert await collect(first) == alone(model, request, ())
        await tiny.replicas["b"].die()
        await tiny.has("a", "c")
        SEEN.clear()
        for _ in range(6):
            both = [tiny.fleet.submit(request) for _ in range(2)]  # it may be drawn where the first waits
            assert [await collect(each) for each in both] == [alone(model, request, ())] * 2
            assert {where(each)[0] for each in both} == {"a", "c"}
        assert sum(len(seen) == 1 for seen in SEEN) >= 6


async def test_what_was_taken_on_is_not_kept_waiting_by_a_full_queue(model: MatFormer) -> None:
    async with tiny_fleet(model) as tiny:
        first = await tiny.add("first", steps=4)
        await tiny.has("first")
        response = tiny.fleet.submit(LONG)
        _, task = await reading(response, 3)
        second = await tiny.add("second", slots=1, max_queue=1)
        await tiny.has("first", "second")
        second.runtime.allow(0)
        full = [second.engine.submit(LONG)]
        await tiny.until(lambda: second.engine.counts() == (1, 0))
        full.append(second.engine.submit(LONG))
        await tiny.until(lambda: not tiny.fleet._replicas["second"].mirror.view(0.0).has_place)
        await first.die()
        await tiny.until(lambda: where(response) == ["first", "second"])
        second.runtime.allow()
        assert await task == alone(model, LONG, ())
        for each in full:
            assert await collect(each) == alone(model, LONG, ())


async def test_a_connection_that_stays_silent_is_made_anew(model: MatFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "CUT_S", 1.2)
    async with tiny_fleet(model) as tiny:
        first = await tiny.add("first", steps=4)
        await tiny.has("first")
        response = tiny.fleet.submit(LONG)
        _, task = await reading(response, 3)
        old = tiny.fleet._replicas["first"]
        first.wire.flows.clear()
        await tiny.add("second")
        await tiny.until(lambda: old not in list(tiny.fleet._replicas))
        first.runtime.allow()
        assert await task == alone(model, LONG, ())
        first.wire.flows.set()
        await tiny.has("first", "second")
        assert tiny.fleet._replicas["first"] is not old
        await tiny.until(lambda: first.engine.counts() == (0, 0))
