"""The OpenAPI document: FastAPI's own, and what it cannot know.

The routes read bodies themselves, after the key and up to a limit, so FastAPI sees neither their types nor those of a
stream's chunks; and the names of models change while the app serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from serve.http.request_schemas import ChatRequest, CompletionRequest, GenerationRequest
from serve.http.response_schemas import ChatChunk, Chunk, CompletionChunk, ErrorResponse

REF = "#/components/schemas/{model}"
REQUEST_ID = {
    "X-Request-Id": {"description": "The client's, if it is usable, else a new one", "schema": {"type": "string"}}
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}}
ERRORS = {
    400: "A field or header that cannot be honoured; `error.param` names it",
    401: "No API key, or one that the server does not know",
    404: "No such model",
    408: "The body has not come in time",
    413: "The body is too large",
    429: "The queue is full, or a strict budget cannot be met",
    500: "The server failed",
    503: "The engine has failed, or is shutting down",
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
                for status, response in operation["responses"].items():
                    response["headers"] = REQUEST_ID | (RETRY_AFTER if status == "429" else {})
        schemas = document["components"]["schemas"]
        del schemas["HTTPValidationError"], schemas["ValidationError"]
        kinds: list[Any] = [(CompletionRequest, "validation"), (ChatRequest, "validation")]
        kinds += [(CompletionChunk, "serialization"), (ChatChunk, "serialization")]
        schemas |= models_json_schema(kinds, ref_template=REF)[1]["$defs"]
        for request, _ in kinds[:2]:
            schemas[request.__name__]["properties"]["model"]["enum"] = names
        return document


def package_version() -> str:
    try:
        return version("lts-ray")
    except PackageNotFoundError:  # run from its folder
        return "0"


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": ERRORS[status]} for status in statuses}


def generation_docs(kind: type[GenerationRequest], chunk: type[Chunk]) -> dict[str, Any]:
    """The keywords of a route that takes this kind of body, and streams such chunks where the body asks for it."""
    content = {"anyOf": [_ref(chunk), _ref(ErrorResponse)]}  # after an error comes no further chunk
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    event = {"type": "object", "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}}, "required": ["data"]}
    return {
        "response_description": "The answer, or with `stream` its chunks as server-sent events",
        "responses": {
            200: {"content": {"text/event-stream": {"itemSchema": event}}},
            **error_docs(400, 401, 404, 408, 413, 429, 500, 503),
        },
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(kind)}}}},
    }


def _ref(model: type[Any]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
