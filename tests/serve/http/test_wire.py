"""What only a real socket shows: the official client, clients that leave, a queue that overflows."""

from __future__ import annotations

import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from serve.http.request_limits import RequestLimits
from serve.http.service import Service
from tests.serve.conftest import Gate, Server, running_server, wait_for


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
    with pytest.raises(openai.BadRequestError, match="echo is not supported"):
        official.completions.create(model="tiny", prompt="a", echo=True)
    with pytest.raises(openai.RateLimitError, match="smallest feasible"):
        official.completions.create(
            model="tiny", prompt="a", extra_headers={"x-slo-strict": "true", "x-slo-ttft-ms": "0.01"}
        )
    assert next(model.id for model in official.models.list()) == "tiny"


def test_the_official_client_reads_several_choices_with_their_log_probabilities(official: openai.OpenAI) -> None:
    fields: Any = {
        "model": "tiny",
        "prompt": ["the law", "the war"],
        "n": 2,
        "logprobs": 2,
        "max_tokens": 6,
        "seed": 1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "logit_bias": {"5": 1},
        "extra_body": {"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 2},
    }
    whole = official.completions.create(**fields)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts = ["", "", "", ""]
    for chunk in official.completions.create(**fields, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    for choice in whole.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert all(logprob <= 0 for logprob in choice.logprobs.token_logprobs)


def test_the_official_clients_stream_helper_builds_the_whole_chat(service: Service, official: openai.OpenAI) -> None:
    """It puts the chunks together itself. It takes no response that was cut off: this one ends after five tokens."""
    fields: Any = {
        "model": "tiny",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "the war"}]}],
        "seed": 1,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 1,
        "logit_bias": {str(service.tokenizer.eos_id): 100},
        "extra_body": {"min_tokens": 5},
    }
    whole = official.chat.completions.create(**fields)
    with official.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
        built = stream.get_final_completion()
    assert built.usage == whole.usage
    for mine, other in zip(built.choices, whole.choices, strict=True):
        assert (mine.message.content, mine.finish_reason) == (other.message.content, other.finish_reason)
        assert mine.logprobs is not None
        assert other.logprobs is not None
        assert mine.logprobs.content == other.logprobs.content


def test_the_official_client_knows_the_requests_id(official: openai.OpenAI) -> None:
    answer = official.completions.create(
        model="tiny", prompt="a", max_tokens=1, extra_headers={"x-request-id": "trace/1"}
    )
    assert answer._request_id == "trace/1"


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_goes_away_frees_its_rows(
    service: Service, server: Server, gate: Gate, caplog: pytest.LogCaptureFixture, stream: bool, n: int
) -> None:
    """The engine's book is the witness: a row that ran on to its end would be logged as length, not cancelled."""
    caplog.set_level(logging.INFO, logger="serve.access")
    fields = {"model": "tiny", "prompt": "the", "max_tokens": 60, "stream": stream, "temperature": 0, "n": n}
    body = json.dumps(fields).encode()
    name = f"leaving-{stream}-{n}"
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Request-Id: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: len(service.engine._active) == n)
        gate.reached.wait()  # else the engine might take the cancellation before it has begun a step
        actives = list(service.engine._active.values())
        if stream:
            connection.recv(1)  # its status line has gone out
    # The connection is closed while the prefill still hangs at the gate, so the server learns it before any token.
    wait_for(lambda: len(service.engine._active.cancelled) == n)
    gate.opened.set()
    wait_for(lambda: service.engine.counts() == (0, 0))
    assert all(active.progress.tokens <= 1 for active in actives)

    def lines() -> list[dict[str, Any]]:
        own = [record for record in caplog.records if record.name == "serve.access" and name in record.message]
        return [json.loads(record.message) for record in own]

    wait_for(lambda: bool(lines()))
    (line,) = lines()
    assert line["client_gone"] is True
    assert (line["status"], line["completion_tokens"]) == (200 if stream else 499, 0)


def test_choices_that_do_not_all_fit_the_queue_are_refused_together(
    service: Service, official: openai.OpenAI, gate: Gate
) -> None:
    def ask(_: int, n: int = 1) -> str:
        return official.completions.create(model="tiny", prompt="the", max_tokens=2, n=n).object

    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(ask, 0)]
        wait_for(lambda: service.engine.counts() == (1, 0))
        asked += [pool.submit(ask, index) for index in range(1, 4)]
        wait_for(lambda: service.engine.counts() == (1, 3))
        with pytest.raises(openai.RateLimitError, match="busy"):
            ask(4, n=2)  # there is room for one of the two, which must not stay behind
        assert len(service.engine._active) - len(service.engine._active.cancelled) == 4
        gate.opened.set()
        assert [each.result() for each in asked] == ["text_completion"] * 4


def test_a_full_queue_answers_429_and_the_rest_is_served(service: Service, official: openai.OpenAI, gate: Gate) -> None:
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
        gate.opened.set()
        assert [each.result() for each in asked] == ["text_completion"] * 5


def test_bodies_that_do_not_come_are_given_up_and_hold_up_nobody(service: Service) -> None:
    """More of them than there are places; some send a byte now and then. Nobody else is held up, by a limit that no
    other body comes near, and then by one that all come to."""
    half = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"

    def waiting(server: Server) -> list[socket.socket]:
        sockets = [opened.enter_context(socket.create_connection((server.host, server.port))) for _ in range(104)]
        for each in sockets:
            each.sendall(half)
        return sockets

    patient, hasty = (replace(service, limits=RequestLimits(body_timeout_s=limit_s)) for limit_s in (600.0, 0.5))
    with running_server(patient) as server, ExitStack() as opened:
        waiting(server)
        assert httpx.get(f"{server.url}/health", timeout=600).json() == {"status": "ok", "running": 0, "waiting": 0}
        body = {"model": "tiny", "prompt": "the", "max_tokens": 2}
        assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=600).status_code == 200
    with running_server(hasty) as server, ExitStack() as opened:
        sockets = waiting(server)
        dripping = sockets[0]
        dripping.settimeout(0.1)
        while True:
            try:
                received = dripping.recv(1 << 16)
                break
            except TimeoutError:
                dripping.sendall(b" ")
        answers = [received, *(each.makefile("rb").read() for each in sockets[1:])]
    for answer in answers:
        head, _, error = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head.lower()
        assert json.loads(error)["error"]["code"] == "body_timeout"
