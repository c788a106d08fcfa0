"""Clients with known answers, against servers that have the faults they are to see."""

from __future__ import annotations

import json
import time

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.load.steady_clients import PROMPTS, SteadyClients
from tests.serve.conftest import running_app


def event(text: str, **more: object) -> bytes:
    return f"data: {json.dumps({'choices': [{'text': text}], **more})}\n\n".encode()


def server(fault: str, at: int) -> ASGIApp:
    """Answers with the prompt, word by word; the request of this number, from 0, has the fault."""
    count = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal count
        if scope["type"] != "http":
            return
        request, budget = json.loads((await receive())["body"]), dict(scope["headers"]).get(b"x-slo-e2e-ms", b"")
        odd, count = fault if count == at else "", count + 1
        await send({"type": "http.response.start", "status": 503 if odd == "status" else 200, "headers": []})
        words = request["prompt"].split()
        words[-1] = {"word": "Peace", "cut": ""}.get(odd, words[-1])
        for word in words:
            await send({"type": "http.response.body", "body": event(word), "more_body": True})
        end = (
            b'data: {"error": {"message": "gone"}}\n\n'
            if odd == "error"
            else event("", lts={"budget": budget.decode()})
        )
        await send({"type": "http.response.body", "body": end if odd != "cut" else b""})

    return app


@pytest.mark.parametrize("fault", ["", "status", "word", "cut", "error"])
def test_each_answer_that_is_not_as_undisturbed_is_wrong(fault: str) -> None:
    """The first of each prompt are learnt; the fault is in one of the later ones."""
    with running_app(server(fault, len(PROMPTS) + 2)) as running:
        clients = SteadyClients(running.url, "tiny")
        clients.learn()
        with clients.asking(budget_ms=50) as answers:
            while len(answers) < 3 * len(PROMPTS):
                time.sleep(0.01)
    wrong = clients.wrong(answers)
    assert len(wrong) == bool(fault)
    assert {answer.prompt for answer in answers} == set(PROMPTS)
    good = [answer for answer in answers if answer not in wrong]
    assert all(answer.report == {"budget": "50.0"} and 0 < answer.pause_s <= answer.ended_s for answer in good)
