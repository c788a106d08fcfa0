"""The OpenAPI document: what the routes take and answer, from the very types that parse and build it.

The routes read their bodies themselves, for errors in OpenAI's shape, so FastAPI knows nothing of them by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic.json_schema import models_json_schema

from serve.http.fields import MAX_BUDGET_MS
from serve.http.schemas import NEUTRAL, ChatRequest, CompletionRequest, GenerationRequest
from serve.policies.budget import KINDS

REF = "#/components/schemas/{model}"
REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
RETRY_AFTER = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
ERRORS = {
    400: "A field or header that cannot be honoured; `error.param` names it",
    401: "No API key, or one that the server does not know",
    404: "No such model",
    413: "The body is too large",
    429: "The queue is full, or a strict budget cannot be met",
    500: "The server failed",
    503: "The engine has failed, or is shutting down",
}
WIDTHS = {"type": "array", "items": {"type": "integer"}}
TIMING = {
    "anyOf": [
        {"type": "object", "properties": {kind: {"type": "number"} for kind in KINDS}, "additionalProperties": False},
        {"type": "null"},
    ]
}
REPORT = {
    "type": "object",
    "description": "Which submodels ran, what was predicted, in milliseconds, and whether the budget was met.",
    "properties": {
        "submodel": {"type": ["string", "null"], "description": "Chosen when the request was admitted"},
        "tokens": {"type": "object", "additionalProperties": {"type": "integer"}},
        "predicted_ms": TIMING,
        "measured_ms": TIMING,
        "budget_ms": TIMING,
        "budget_met": {"type": ["boolean", "null"]},
    },
    "required": ["submodel", "tokens", "predicted_ms", "measured_ms", "budget_ms", "budget_met"],
    "additionalProperties": False,
}
OWN_SCHEMAS: dict[str, dict[str, Any]] = {
    "Report": REPORT,
    "Lts": {
        "description": "A report, or one for each of several choices.",
        "anyOf": [
            {"$ref": REF.format(model="Report")},
            {
                "type": "object",
                "properties": {"choices": {"type": "array", "items": {"$ref": REF.format(model="Report")}}},
                "required": ["choices"],
                "additionalProperties": False,
            },
        ],
    },
    "Trace": {
        "type": "object",
        "description": "Which submodel wrote a chunk, and when, in milliseconds after the request's arrival.",
        "properties": {"submodel": {"type": "string"}, "tokens": {"type": "integer"}, "at_ms": {"type": "number"}},
        "required": ["submodel", "tokens", "at_ms"],
        "additionalProperties": False,
    },
    "ServedModel": {
        "type": "object",
        "description": "A submodel that the name stands for; the universal model for the name alone.",
        "properties": {
            "submodel": {"type": "string"},
            "widths": WIDTHS,
            "heads": {**WIDTHS, "description": "Of each layer, where it has fewer than all."},
            "d_model": {"type": "integer", "description": "Where it has less than all."},
            "loss": {"type": ["number", "null"]},
        },
        "required": ["submodel", "widths", "loss"],
        "additionalProperties": False,
    },
    "ModelList": {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": REF.format(model="Model")}},
        },
        "required": ["object", "data"],
        "additionalProperties": False,
    },
    "Health": {
        "type": "object",
        "properties": {"status": {"const": "ok"}, "running": {"type": "integer"}, "waiting": {"type": "integer"}},
        "required": ["status", "running", "waiting"],
        "additionalProperties": False,
    },
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                    "smallest_feasible_budget_ms": {"type": "object", "additionalProperties": {"type": "number"}},
                },
                "required": ["message", "type", "param", "code"],
                "additionalProperties": False,
            }
        },
        "required": ["error"],
        "additionalProperties": False,
    },
}


class DocumentedApp(FastAPI):
    """names: of the models that a request may ask for, which may change while the app serves."""

    def __init__(self, *, names: Callable[[], Iterable[str]], **settings: Any) -> None:
        super().__init__(**settings)
        self._names = names
        self._named: list[str] | None = None  # those of the document that is kept

    def openapi(self) -> dict[str, Any]:
        names = list(self._names())
        if self.openapi_schema is None or self._named != names:
            self.openapi_schema, self._named = None, names
            self.openapi_schema = self._document(names)
        return self.openapi_schema

    def _document(self, names: list[str]) -> dict[str, Any]:
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own way to refuse, which no route uses
        schemas = _schemas(names)
        components = document.setdefault("components", {})
        components["schemas"] = schemas
        components["headers"] = {
            "X-Request-Id": {
                "description": "The client's, if it is usable, else a new one",
                "schema": {"type": "string"},
            },
            "Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}},
        }
        return document


def package_version() -> str:
    try:
        return version("lts-ray")
    except PackageNotFoundError:  # run from its folder
        return "0"


def generation_docs(kind: type[GenerationRequest], answer: type[Completion | ChatCompletion]) -> dict[str, Any]:
    """The keywords of a route that generates."""
    content = {"application/json": {"schema": {"$ref": REF.format(model=kind.__name__)}}}
    whole = json_answer(answer.__name__, "The answer, or with `stream` its chunks as server-sent events")
    whole["content"]["text/event-stream"] = {"itemSchema": _event(f"{answer.__name__}Chunk")}
    return {
        "responses": {200: whole, **error_docs(400, 401, 404, 413, 429, 500, 503)},
        "openapi_extra": {"requestBody": {"required": True, "content": content}, "parameters": _budget_headers()},
    }


def _event(chunk: str) -> dict[str, Any]:
    """A server-sent event: a chunk, an error after which no chunk comes, or the end."""
    told = {"anyOf": [{"$ref": REF.format(model=chunk)}, {"$ref": REF.format(model="Error")}]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": told}
    return {"type": "object", "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}}, "required": ["data"]}


def json_answer(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REF.format(model=schema)}}}
    return {"description": description, "headers": REQUEST_ID, "content": content}


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: json_answer("Error", ERRORS[status]) | ({"headers": REQUEST_ID | RETRY_AFTER} if status == 429 else {})
        for status in statuses
    }


def _budget_headers() -> list[dict[str, Any]]:
    what = {"ttft": "to the first token", "tpot": "a token after the first", "e2e": "for the whole response"}
    limits = [
        _header(
            f"x-slo-{kind}-ms",
            {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_BUDGET_MS},
            f"Budget: milliseconds {text}",
        )
        for kind, text in what.items()
    ]
    switch = {"type": "string", "enum": ["true", "false"]}
    return [
        *limits,
        _header("x-slo-strict", switch, "Refuse the request with 429 rather than miss its budget"),
        _header("x-lts-trace", switch, "Every chunk of a stream says which submodel wrote it"),
    ]


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def _schemas(names: list[str]) -> dict[str, dict[str, Any]]:
    kinds: list[Any] = [
        (CompletionRequest, "validation"),
        (ChatRequest, "validation"),
        (Completion, "serialization"),
        (ChatCompletion, "serialization"),
        (ChatCompletionChunk, "serialization"),
        (Model, "serialization"),
    ]
    _, definitions = models_json_schema(kinds, ref_template=REF)
    schemas: dict[str, dict[str, Any]] = definitions["$defs"]
    for kind in (CompletionRequest, ChatRequest):
        properties = schemas[kind.__name__]["properties"]
        properties["model"] = {"type": "string", "enum": names}
        for name, neutral in NEUTRAL.items():
            properties.setdefault(name, {"enum": [*neutral, None], "description": "Not supported: leave it out."})
    schemas["CompletionChunk"] = _completion_chunk(schemas)
    for name in ("Completion", "ChatCompletion"):
        schemas[name]["properties"]["lts"] = {"$ref": REF.format(model="Lts")}
        schemas[name]["required"] += ["usage", "lts"]
    for name in ("CompletionChunk", "ChatCompletionChunk"):
        told = [{"$ref": REF.format(model=each)} for each in ("Lts", "Trace")]
        schemas[name]["properties"]["lts"] = {"anyOf": told}
    schemas["Model"]["properties"]["lts"] = {"$ref": REF.format(model="ServedModel")}
    return schemas | OWN_SCHEMAS


def _completion_chunk(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """OpenAI gives chunks the type of a whole completion, whose choices always have a reason; a chunk's may be null."""
    chunk, choice = deepcopy(schemas["Completion"]), deepcopy(schemas["CompletionChoice"])
    choice["properties"]["finish_reason"] = {"enum": ["stop", "length", None]}
    chunk["properties"]["choices"] = {"type": "array", "items": choice}
    return chunk
