"""What only a real socket shows: the official client, clients that leave, a queue that overflows."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import sleep

import openai
import pytest
import torch

from serve.service import Service
from tests.serve.conftest import Server


def test_the_official_client_completes_and_streams(official: openai.OpenAI) -> None:
    whole = official.completions.create(model="tiny", prompt="the law", temperature=0, max_tokens=8)
    stream = official.completions.create(model="tiny", prompt="the law", temperature=0, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    assert whole.usage is not None
    assert whole.model_extra is not None
    assert sum(whole.model_extra["lts"]["tokens"].values()) == whole.usage.completion_tokens


def test_the_official_client_chats_with_a_budget(official: openai.OpenAI) -> None:
    answer = official.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "the war"}],
        max_completion_tokens=5,
        extra_body={"latency_budget_ms": 1e6},
        extra_headers={"x-slo-ttft-ms": "1e6"},
    )
    assert answer.choices[0].message.content is not None
    assert answer.model_extra is not None
    assert answer.model_extra["lts"]["budget_met"] is True
    stream = official.chat.completions.create(
        model="tiny:S",
        messages=[{"role": "user", "content": "the war"}],
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    last = list(stream)[-1]
    assert last.usage is not None
    assert last.model_extra is not None
    assert last.model_extra["lts"]["tokens"].keys() == {"S"}


def test_the_official_client_raises_its_own_errors(official: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        official.completions.create(model="gpt-4", prompt="a")
    with pytest.raises(openai.BadRequestError, match="n is not supported"):
        official.completions.create(model="tiny", prompt="a", n=3)
    with pytest.raises(openai.RateLimitError, match="smallest feasible"):
        official.completions.create(
            model="tiny", prompt="a", extra_headers={"x-slo-strict": "true", "x-slo-ttft-ms": "0.01"}
        )
    assert next(model.id for model in official.models.list()) == "tiny"


@pytest.fixture
def gate(service: Service, monkeypatch: pytest.MonkeyPatch) -> Event:
    """Steps wait until it is set: what is asked meanwhile is in the engine, however fast the machine is."""
    gate, forward = Event(), service.engine.model.forward

    def gated(tokens: torch.Tensor, **keywords: object) -> torch.Tensor:
        gate.wait()
        return forward(tokens, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(service.engine.model, "forward", gated)
    return gate


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        sleep(0.005)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_goes_away_frees_its_row(service: Service, server: Server, gate: Event, stream: bool) -> None:
    """The engine's book is the witness: a row that ran on to its end would be logged as length, not cancelled."""
    body = json.dumps({"model": "tiny", "prompt": "the", "max_tokens": 60, "stream": stream, "temperature": 0}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(head + body)
        wait_for(lambda: service.engine.counts()[0] == 1)
        active = next(iter(service.engine._active.values()))
    # The connection is closed while the prefill still hangs at the gate, so the server learns it before any token.
    wait_for(lambda: bool(service.engine._cancelled))
    gate.set()
    wait_for(lambda: service.engine.counts() == (0, 0))
    assert active.progress.tokens <= 1


def test_a_full_queue_answers_429_and_the_rest_is_served(
    service: Service, official: openai.OpenAI, gate: Event
) -> None:
    """Two rows and four places in the queue; the first prefill hangs, so one row and the queue hold five."""

    def ask(_: int) -> str:
        return official.completions.create(model="tiny", prompt="the", max_tokens=2).object

    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(ask, 0)]
        wait_for(lambda: service.engine.counts() == (1, 0))
        asked += [pool.submit(ask, index) for index in range(1, 5)]
        wait_for(lambda: service.engine.counts() == (1, 4))
        with pytest.raises(openai.RateLimitError, match="busy") as refusal:
            ask(6)
        assert int(refusal.value.response.headers["retry-after"]) >= 1
        gate.set()
        assert [each.result() for each in asked] == ["text_completion"] * 5
