from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import pytest

from benchmarks.load.clients import Ask, engine_client, replay_load, server_client
from benchmarks.serving_overhead import measure_overhead
from lts_ray.errors import LtsRayError
from lts_ray.timing import Clock
from serve.engine.engine import Engine
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.named_policies import policy_named
from serve.simulate.request_outcome import Outcome, refused
from serve.traffic.arrival import Arrival
from tests.benchmarks.load.loads import COSTS, local_model
from tests.serve.conftest import Gate, Server


def arrivals(count: int, *, every_ms: float = 1.0, budget: Budget = NO_BUDGET, tokens: int = 5) -> list[Arrival]:
    return [
        Arrival(at_ms=every_ms * number, prompt_tokens=3, output_tokens=tokens, budget=budget, klass="none")
        for number in range(count)
    ]


def prompts(count: int) -> list[tuple[int, ...]]:
    return [(number + 1, 2, 3) for number in range(count)]


@pytest.fixture
def engine(model_dir: Path) -> Iterator[Engine]:
    """Four places and a queue of eight."""
    engine = local_model(model_dir).engine(costs=COSTS, policy=policy_named("deadline"))
    yield engine
    engine.stop()


async def outcomes_of(ask: Ask, load: Sequence[Arrival], clock: Clock) -> tuple[Outcome, ...]:
    """When all have been answered, in the arrivals' order."""
    outcomes: dict[int, Outcome] = {}
    await replay_load(ask, load, prompts(len(load)), clock=clock, ended=outcomes.__setitem__)
    return tuple(outcomes[number] for number in range(len(load)))


async def on_engine(engine: Engine, load: Sequence[Arrival]) -> tuple[Outcome, ...]:
    return await outcomes_of(engine_client(engine), load, engine.clock)


async def on_server(url: str, load: Sequence[Arrival]) -> tuple[Outcome, ...]:
    async with server_client(url) as ask:
        return await outcomes_of(ask, load, monotonic)


async def replayed(ask, count: int) -> list[int]:  # type: ignore[no-untyped-def]
    ended: list[int] = []
    await replay_load(
        ask, arrivals(count), prompts(count), clock=monotonic, ended=lambda number, outcome: ended.append(number)
    )
    return ended


def test_a_load_is_open_it_never_waits_for_answers() -> None:
    """The first request is answered after the third has come: whoever waits for answers waits here for ever."""
    third = asyncio.Event()
    asked: list[tuple[int, ...]] = []

    async def ask(arrival: Arrival, prompt: tuple[int, ...], due_s: float) -> Outcome:
        asked.append(prompt)
        if len(asked) == 3:
            third.set()
        await third.wait()
        return refused(arrival, "rejected", {})

    assert sorted(asyncio.run(asyncio.wait_for(replayed(ask, 3), timeout=600))) == [0, 1, 2]
    assert asked == prompts(3)


def test_requests_are_asked_when_they_are_due() -> None:
    due: list[float] = []

    async def ask(arrival: Arrival, prompt: tuple[int, ...], due_s: float) -> Outcome:
        assert monotonic() >= due_s
        due.append(due_s)
        return refused(arrival, "rejected", {})

    asyncio.run(replayed(ask, 4))
    assert [1e3 * (each - due[0]) for each in due] == pytest.approx([0, 1, 2, 3])


def test_an_error_ends_all_requests_and_is_told_as_it_is() -> None:
    asked: list[int] = []
    left: list[int] = []

    async def ask(arrival: Arrival, prompt: tuple[int, ...], due_s: float) -> Outcome:
        if prompt[0] == 3:
            raise LtsRayError("the load is wrong")
        asked.append(prompt[0])
        try:
            await asyncio.sleep(3600)
        finally:
            left.append(prompt[0])
        return refused(arrival, "failed", {})

    with pytest.raises(LtsRayError, match="the load is wrong"):
        asyncio.run(replayed(ask, 5))
    assert asked[:2] == [1, 2]
    assert sorted(left) == asked


def test_the_engine_answers_every_request_in_full_and_tells_who_made_the_tokens(engine: Engine) -> None:
    engine.start()
    load = [*arrivals(4), *arrivals(4, budget=Budget(e2e_ms=1e6))]
    outcomes = asyncio.run(on_engine(engine, load))
    assert [each.arrival for each in outcomes] == load
    for each in outcomes:
        assert each.status == "done"
        assert sum(each.submodels.values()) == 5  # the end-of-text token does not end it
        assert each.timing is not None
        assert 0 < each.timing.ttft_ms < each.timing.e2e_ms
        assert each.predicted is not None
        assert each.met
    assert all(set(each.submodels) == {"XL"} for each in outcomes[:4])


def test_a_full_queue_rejects_and_an_engine_that_stops_fails_its_requests(engine: Engine) -> None:
    """It has not been started: eight wait, and nobody runs until it is stopped."""

    load, outcomes = arrivals(11, every_ms=0.0), dict[int, Outcome]()

    async def overrun() -> None:
        given = {"clock": engine.clock, "ended": outcomes.__setitem__}
        waiting = asyncio.create_task(replay_load(engine_client(engine), load, prompts(11), **given))
        while len(outcomes) < 3:
            await asyncio.sleep(0.001)
        engine.start()
        await asyncio.to_thread(engine.stop)
        await waiting

    asyncio.run(overrun())
    assert len(outcomes) == 11
    assert [each.status for each in outcomes.values()].count("rejected") == 3
    assert all(each.timing is None for each in outcomes.values() if each.status != "done")


def test_over_http_the_same_requests_give_whole_responses(server: Server) -> None:
    """The server has two places and a queue of four; each request's times are the client's own."""
    load = [*arrivals(2, tokens=6), *arrivals(2, tokens=6, budget=Budget(ttft_ms=1e6, tpot_ms=1e6))]
    outcomes = asyncio.run(on_server(server.url, load))
    for each in outcomes:
        assert each.status == "done"
        assert sum(each.submodels.values()) == 6
        assert each.timing is not None
        assert 0 < each.timing.ttft_ms <= each.timing.e2e_ms
        assert each.predicted is not None
        assert each.met
    assert all(set(each.submodels) == {"XL"} for each in outcomes[:2])


def test_over_http_a_full_queue_is_a_rejection(server: Server, gate: Gate) -> None:
    """A queue of four, and one or two that are in the step which goes on when all others have been refused."""
    statuses: list[str] = []

    def ended(number: int, outcome: Outcome) -> None:
        statuses.append(outcome.status)
        if len(statuses) == 24:
            gate.opened.set()

    async def overrun() -> None:
        async with server_client(server.url) as ask:
            await replay_load(ask, arrivals(30, every_ms=0.0), prompts(30), clock=monotonic, ended=ended)

    asyncio.run(overrun())
    assert statuses[:24] == ["rejected"] * 24
    assert statuses[25:] == ["done"] * 5  # and one of either


def test_a_load_that_the_server_refuses_ends_in_its_own_words(server: Server) -> None:
    with pytest.raises(LtsRayError, match=r"refuses the load: .*context of 64 tokens"):
        asyncio.run(on_server(server.url, arrivals(3, tokens=1000)))


def test_where_no_server_is_one_line_says_so() -> None:
    with pytest.raises(LtsRayError, match="no endpoint answers at http") as caught:
        asyncio.run(on_server("http://127.0.0.1:9", arrivals(1)))
    assert "\n" not in str(caught.value)


def test_the_endpoint_is_compared_with_another_one(server: Server, model_dir: Path) -> None:
    sizes = {"rounds": 1, "singles": 1, "streams": 2, "prompt_tokens": 4, "tokens": 4}
    result = measure_overhead(server.url, local_model(model_dir), costs=None, beside=server.url, **sizes)
    assert {way: len(each) for way, each in result.at_once_ms.items()} == {"engine": 2, "http": 2}
    assert f"ms, {server.url} " in result.lines[0]


def test_the_endpoint_is_compared_with_an_engine_in_turns(server: Server, model_dir: Path) -> None:
    done: list[int] = []
    result = measure_overhead(
        server.url,
        local_model(model_dir),
        costs=COSTS,
        rounds=2,
        singles=3,
        streams=2,
        prompt_tokens=4,
        tokens=8,
        progress=lambda number, total: done.append(number),
    )
    assert done == list(range(1, 13))  # with a round that only warms up
    assert {way: len(each) for way, each in result.ttft_ms.items()} == {"engine": 6, "http": 6}
    assert {way: len(each) for way, each in result.at_once_ms.items()} == {"engine": 4, "http": 4}
    assert {way: len(each) for way, each in result.tokens_s.items()} == {"engine": 2, "http": 2}
    found = result.to_json()
    assert found["lost"] == pytest.approx(result.lost, abs=1e-4)
    assert result.lost < 1
    alone, at_once = result.added_ms
    assert f"{alone:.2f} ms later over HTTP" in result.lines[0]
    assert f"{at_once:.2f} ms of streams" in result.lines[0]
    assert f"lose {100 * result.lost:.1f} %" in result.lines[1]
