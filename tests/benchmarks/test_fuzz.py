"""The fuzzer against servers that have the faults it is to find."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks import fuzz
from benchmarks.fuzz import GOOD_TOKENS, FuzzResult, fuzz_endpoint
from benchmarks.load.odd_request import KINDS, OddRequest
from benchmarks.load.ray_endpoint import Endpoint
from tests.serve.conftest import running_app

MODELS = ("tiny", "tiny:S")
Answer = Callable[[dict[str, object], Send], Awaitable[None]]


async def say(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def server_that(odd: Answer, good: Callable[[int], str] = lambda count: "same") -> ASGIApp:
    """odd: answers what is no good stream. good: the text of the good streams, by how many there were."""
    count = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal count
        if scope["type"] != "http":
            return
        if scope["path"] == "/v1/models" and scope["method"] == "GET":
            await say(send, 200, json.dumps({"data": [{"id": name} for name in MODELS]}).encode())
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        try:
            fields = json.loads(body)
        except ValueError:
            fields = {}
        if isinstance(fields, dict) and fields.get("max_tokens") == GOOD_TOKENS:
            chunk = json.dumps({"choices": [{"text": good(count)}]})
            count += 1
            await say(send, 200, f"data: {chunk}\n\ndata: [DONE]\n\n".encode())
        else:
            await odd(fields, send)

    return app


def fuzzed(app: ASGIApp, *, requests: int = 60, hang_s: float = 600.0) -> FuzzResult:
    with running_app(app) as server:
        return asyncio.run(
            fuzz_endpoint(Endpoint(server.url, None), numbers=range(requests), seed=0, streams=2, hang_s=hang_s)
        )


async def refuse(_: object, send: Send) -> None:
    await say(send, 400, b"{}")


async def fail(_: object, send: Send) -> None:
    await say(send, 500, b"{}")


async def break_off(_: object, send: Send) -> None:
    await say(send, 200, b'data: {"error": {"type": "server_error"}}\n\ndata: [DONE]\n\n')


async def hang(_: object, send: Send) -> None:
    await asyncio.Event().wait()


def test_a_server_that_refuses_what_is_odd_passes() -> None:
    result = fuzzed(server_that(refuse))
    assert result.violations == []
    assert result.requests == 60
    assert result.good > 0
    assert json.loads(json.dumps(result.to_json()))["statuses"]["400"] > 0


@pytest.mark.parametrize(("fault", "found"), [(fail, "it failed"), (break_off, "server_error")])
def test_a_request_that_fails_is_found_and_can_be_sent_again(fault: Answer, found: str) -> None:
    result = fuzzed(server_that(fault))
    assert result.violations
    assert found in result.violations[0]
    assert "again: python -m benchmarks.fuzz --seed 0 --only " in result.violations[0]


def test_a_request_that_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "HANG_S", 600.0)  # of what does not hang
    assert any("no byte for 0.2 s" in line for line in fuzzed(server_that(hang), requests=8, hang_s=0.2).violations)


def test_a_good_stream_that_changes_is_found() -> None:
    result = fuzzed(server_that(refuse, good=lambda count: "same" if count < 2 else "another"))
    assert any("gave 'another' in place of 'same'" in line for line in result.violations)


def test_a_request_is_drawn_by_seed_and_number() -> None:
    drawn = [OddRequest.draw(3, number, MODELS) for number in range(300)]
    assert drawn == [OddRequest.draw(3, number, MODELS) for number in range(300)]
    assert {request.kind for request in drawn} == set(KINDS)
    assert len({request.writes for request in drawn}) > 250
    assert drawn[0] != OddRequest.draw(4, 0, MODELS)
