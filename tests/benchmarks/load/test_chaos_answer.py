"""What a client makes of servers that answer well, say what is wrong, or break off."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from benchmarks.load.chaos_answer import ChaosAnswer, ChaosRequest, ask_stream
from tests.serve.conftest import running_app

REQUEST = ChaosRequest(number=3, model="m", prompt=[1, 2], max_tokens=2)
TEXTS = [{"choices": [{"text": text, "finish_reason": None}]} for text in ("a", "b")]
END = {"choices": [{"text": "", "finish_reason": "length"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 2}, "lts": {"migrations": 1}}
ERROR = {"error": {"message": "the replica was lost"}}


def asked(status: int, lines: list[object], *, breaks: bool = False) -> tuple[ChaosAnswer, dict[str, str]]:
    """What the client sees of that answer, and the headers that it sent. breaks: the connection, before its end."""
    headers: dict[str, str] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers.update({name.decode(): value.decode() for name, value in scope["headers"]})
        await send({"type": "http.response.start", "status": status, "headers": []})
        for line in lines:
            data = line if isinstance(line, str) else f"data: {json.dumps(line)}\n\n"
            await send({"type": "http.response.body", "body": data.encode(), "more_body": True})
        if breaks:
            raise ConnectionError
        await send({"type": "http.response.body", "body": b""})

    async def main(url: str) -> ChaosAnswer:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            return await ask_stream(client, REQUEST, budget_ms=1500.0)

    with running_app(app) as server:
        return asyncio.run(main(f"http://{server.host}:{server.port}")), headers


def test_a_whole_answer_has_its_text_and_when_it_came() -> None:
    answer, headers = asked(200, [*TEXTS, END, USAGE, "data: [DONE]\n\n"])
    assert (answer.text, answer.is_whole, answer.lts) == ("ab", True, {"migrations": 1})
    assert answer.sent_s <= answer.token_s[0] <= answer.token_s[1] <= answer.ended_s
    assert headers["x-slo-e2e-ms"] == "1500.0"


@pytest.mark.parametrize(("status", "lines"), [(200, [*TEXTS, ERROR]), (503, [json.dumps(ERROR)])])
def test_an_error_that_says_so_is_one(status: int, lines: list[object]) -> None:
    answer, _ = asked(status, lines)
    assert (answer.error, answer.broken, answer.is_whole) == ("the replica was lost", None, False)


@pytest.mark.parametrize(
    ("status", "lines", "breaks", "said"),
    [
        (200, TEXTS, True, "Error: "),  # of the protocol or of reading: whichever comes first
        (200, [*TEXTS, END, USAGE], False, "without [DONE]"),
        (500, ["Internal Server Error"], False, "no error in OpenAI's shape"),
        (500, ['{"detail": "no"}'], False, "no error in OpenAI's shape"),
    ],
)
def test_what_says_nothing_is_broken(status: int, lines: list[object], breaks: bool, said: str) -> None:
    answer, _ = asked(status, lines, breaks=breaks)
    assert said in (answer.broken or "")
    assert (answer.error, answer.is_whole) == (None, False)
