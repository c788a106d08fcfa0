"""What an answer and its line in the log say of the fleet that served it: which kind, which replica, how many moves."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.engine.engine import Engine
from serve.engine.response import Placed, Response
from serve.http.api import create_app
from serve.http.response_schemas import ChatChunk, CompletionResponse
from serve.http.service import Service
from serve.policies.request import Request

BODY: dict[str, Any] = {"model": "tiny", "prompt": "the nation", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
WHERE = {"kind": "cpu-small", "replica": "small-2", "migrations": 2}


@dataclass
class Moved:
    """The engine, as a fleet that has lost two replicas before the one that answers."""

    engine: Engine

    def submit(self, request: Request, *, arrived_s: float | None = None) -> Response:
        response = self.engine.submit(request, arrived_s=arrived_s)
        for kind, replica in (("gpu", "gpu-1"), ("cpu-small", "small-1"), ("cpu-small", "small-2")):
            response.receive(Placed(kind, replica))
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


@pytest.fixture(scope="module")
def fleet(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(replace(service, engine=Moved(service.engine)))) as client:
        yield client


def test_an_answer_says_where_it_ended_and_how_often_it_moved(fleet: TestClient, client: TestClient) -> None:
    body = fleet.post("/v1/completions", json=BODY).json()
    assert WHERE.items() <= body["lts"].items()
    assert CompletionResponse.model_validate(body).model_dump(mode="json", exclude_unset=True) == body
    assert body["usage"]["completion_tokens"] == 4
    several = fleet.post("/v1/completions", json=BODY | {"n": 2}).json()["lts"]["choices"]
    assert [WHERE.items() <= each.items() for each in several] == [True, True]
    alone = client.post("/v1/completions", json=BODY).json()["lts"]
    assert not WHERE.keys() & alone.keys(), "without a fleet there is nothing to say"


def test_a_streams_last_chunk_says_so_too(fleet: TestClient) -> None:
    messages = {"messages": [{"role": "user", "content": "the war"}], "stream": True}
    body = {name: value for name, value in BODY.items() if name != "prompt"} | messages
    *_, last, _ = fleet.post("/v1/chat/completions", json=body).text.strip().split("\n\n")
    chunk = json.loads(last.removeprefix("data: "))
    assert WHERE.items() <= chunk["lts"].items()
    ChatChunk.model_validate(chunk)


def test_the_document_has_what_a_fleet_says(client: TestClient) -> None:
    report = client.get("/openapi.json").json()["components"]["schemas"]["Report"]
    assert WHERE.keys() <= report["properties"].keys()
    assert not WHERE.keys() & set(report["required"])


def test_the_access_log_has_it_for_each_choice(
    fleet: TestClient, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="serve.access")
    fleet.post("/v1/completions", json=BODY)
    fleet.post("/v1/completions", json=BODY | {"n": 2})
    client.post("/v1/completions", json=BODY)
    one, two, alone = (json.loads(record.message) for record in caplog.records if record.name == "serve.access")
    assert WHERE.items() <= one.items()
    assert {name: two[name] for name in WHERE} == {name: [value] * 2 for name, value in WHERE.items()}
    assert not WHERE.keys() & alone.keys()
