from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.http.access_log import AccessLogMiddleware

BODY = {"model": "tiny", "prompt": "the nation", "max_tokens": 4, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    caplog.set_level(logging.INFO, logger="serve.access")
    return lambda: [json.loads(record.message) for record in caplog.records if record.name == "serve.access"]


def test_a_line_tells_what_ran_for_a_request(client: TestClient, lines: Callable[[], list[dict[str, Any]]]) -> None:
    headers = {"x-request-id": "abc", "x-slo-e2e-ms": "1e6"}
    body = client.post("/v1/completions", json=BODY, headers=headers).json()
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line.pop("duration_ms") >= body["lts"]["measured_ms"]["e2e"] // 1
    assert line.pop("delivered_ms")["whole"] > 0, "as it was, beside what was expected of it"
    assert line == {
        "request_id": "abc",
        "method": "POST",
        "route": "/v1/completions",
        "status": 200,
        "client_gone": False,
        "prompt_tokens": body["usage"]["prompt_tokens"],
        "completion_tokens": 4,
        "choices": 1,
        "submodels": body["lts"]["tokens"],
        "budget_ms": {"e2e": 1e6},
        "predicted_ms": body["lts"]["predicted_ms"],
        "measured_ms": body["lts"]["measured_ms"],
        "time_ms": body["lts"]["time_ms"],
        "budget_met": True,
    }


def test_a_streams_line_comes_when_the_stream_has_ended(
    client: TestClient, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    client.post("/v1/completions", json=BODY | {"stream": True, "n": 2})
    (line,) = lines()
    assert (line["completion_tokens"], line["choices"], sum(line["submodels"].values())) == (8, 2, 8)
    assert len(line["measured_ms"]) == 2
    assert line["budget_met"] is None


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("POST", "/v1/completions", "/v1/completions", 400),
        ("GET", "/v1/models/none", "/v1/models/{name:path}", 404),
        ("GET", "/nowhere", "/nowhere", 404),
        ("DELETE", "/v1/models", "/v1/models", 405),
    ],
)
def test_a_refusal_has_a_line_with_its_route_and_status(
    client: TestClient, lines: Callable[[], list[dict[str, Any]]], method: str, path: str, route: str, status: int
) -> None:
    client.request(method, path)
    (line,) = lines()
    assert (line["route"], line["status"], line["client_gone"]) == (route, status, False)
    assert "completion_tokens" not in line


def test_no_line_has_the_prompt_or_the_text(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="serve")
    answer = client.post("/v1/completions", json=BODY | {"prompt": "the secret people", "user": "someone"})
    client.post("/v1/completions", json=BODY | {"prompt": "the secret people", "colour": "unknown"})
    assert len(caplog.records) >= 2
    for secret in ("secret", "someone", answer.json()["choices"][0]["text"]):
        assert secret not in caplog.text


def test_probes_are_not_worth_a_line(client: TestClient, lines: Callable[[], list[dict[str, Any]]]) -> None:
    client.get("/health")
    assert lines() == []


def log_of(app: Any, lines: Callable[[], list[dict[str, Any]]]) -> dict[str, Any]:
    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/", "state": {"request_id": "abc"}}
    ticks = iter([5.0, 5.25])
    logged = AccessLogMiddleware(app, now=lambda: 1.5, clock=lambda: next(ticks))
    with suppress(ZeroDivisionError):
        asyncio.run(logged(scope, receive, send))
    (line,) = lines()
    return line


def test_a_stream_that_was_cut_off_is_a_client_that_has_gone(lines: Callable[[], list[dict[str, Any]]]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})

    line = log_of(app, lines)
    assert line == {
        "time": "1970-01-01T00:00:01.500Z",
        "duration_ms": 250.0,
        "request_id": "abc",
        "method": "GET",
        "route": "/",
        "status": 200,
        "client_gone": True,
    }


def test_a_bug_has_a_line_too(lines: Callable[[], list[dict[str, Any]]]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    line = log_of(app, lines)
    assert (line["status"], line["client_gone"]) == (500, False)
