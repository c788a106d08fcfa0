"""The OpenAPI document, and by it: whatever a client may send, the server answers as the document says, and goes on."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks

from serve.http.api import create_app
from serve.http.keys import Keys
from serve.http.request_schemas import ChatRequest, CompletionRequest
from serve.http.service import Service
from serve.http.unused_fields import NEUTRAL

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.unsupported_method,
]


@pytest.fixture(scope="session")
def app(service: Service) -> FastAPI:
    return create_app(service, metrics=lambda: (b"lts 1\n", "text/plain; version=0.0.4"))


@pytest.mark.parametrize(
    ("path", "method", "mode", "answered"),
    [
        ("/v1/completions", "POST", GenerationMode.POSITIVE, {200}),
        ("/v1/completions", "POST", GenerationMode.NEGATIVE, {400}),
        ("/v1/chat/completions", "POST", GenerationMode.POSITIVE, {200}),
        ("/v1/chat/completions", "POST", GenerationMode.NEGATIVE, {400}),
        ("/v1/models", "GET", GenerationMode.POSITIVE, {200}),
        ("/v1/models/{name}", "GET", GenerationMode.POSITIVE, {404}),
        ("/health", "GET", GenerationMode.POSITIVE, {200}),
        ("/metrics", "GET", GenerationMode.POSITIVE, {200}),
    ],
    ids=str,
)
def test_whatever_is_sent_is_answered_as_the_document_says(
    app: FastAPI, path: str, method: str, mode: GenerationMode, answered: set[int]
) -> None:
    """answered: statuses that must be among the answers, or the test has looked at refusals only."""
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path][method]
    seen = []

    @settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        seen.append(case.call_and_validate(checks=CHECKS).status_code)

    send()
    assert answered <= set(seen)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_every_event_of_a_stream_is_as_the_document_says(app: FastAPI, path: str) -> None:
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["POST"]
    streams = 0

    @settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def send(case: Any) -> None:
        nonlocal streams
        fits = {"stream": True, "max_tokens": 5, "max_completion_tokens": None, "min_tokens": None, "n": 2}
        case.body = {name: value for name, value in case.body.items() if name not in ("best_of", "prompt")} | fits
        if path == "/v1/completions":
            case.body["prompt"] = "the nation"
        response = case.call_and_validate(checks=CHECKS)
        streams += response.headers["content-type"][0].startswith("text/event-stream")

    send()
    assert streams > 5


def document(client: TestClient) -> dict[str, Any]:
    return client.get("/openapi.json").json()


@pytest.mark.parametrize(
    ("kind", "path"), [(CompletionRequest, "/v1/completions"), (ChatRequest, "/v1/chat/completions")]
)
def test_every_field_that_is_read_or_refused_by_name_is_described(client: TestClient, kind: Any, path: str) -> None:
    described = document(client)
    content = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert content == {"$ref": f"#/components/schemas/{kind.__name__}"}
    fields = described["components"]["schemas"][kind.__name__]
    assert fields["properties"].keys() == kind.model_fields.keys() | NEUTRAL.keys()
    assert fields["additionalProperties"] is False
    assert fields["properties"]["model"]["enum"] == ["tiny", "tiny:S", "tiny:M", "tiny:L", "tiny:XL"]
    assert None in fields["properties"]["web_search_options"]["enum"]
    names = {each["name"] for each in described["paths"][path]["post"]["parameters"]}
    ours = {"x-slo-ttft-ms", "x-slo-tpot-ms", "x-slo-e2e-ms", "x-slo-strict", "x-lts-trace"}
    assert names == ours | {"x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms", "x-priority"}


def test_all_references_have_what_they_refer_to(client: TestClient) -> None:
    described = document(client)
    references: set[str] = set()

    def gather(value: Any) -> None:
        if isinstance(value, dict):
            references.update({value["$ref"]} if isinstance(value.get("$ref"), str) else ())
            for each in value.values():
                gather(each)
        elif isinstance(value, list):
            for each in value:
                gather(each)

    gather(described)
    assert len(references) > 10
    for reference in references:
        found = described
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_the_document_says_how_a_key_is_sent_where_one_is_needed(service: Service) -> None:
    def security(keys: Keys | None) -> dict[str, Any]:
        with TestClient(create_app(service, keys=keys)) as client:
            paths = document(client)["paths"]
        return {path: operation.get("security") for path, each in paths.items() for operation in each.values()}

    assert set(map(str, security(None).values())) == {"None"}
    guarded = security(Keys((b"0" * 32,)))
    assert guarded["/health"] is None
    assert {path for path, each in guarded.items() if each} == {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
    }
