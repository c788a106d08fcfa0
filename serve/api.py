"""The OpenAI-compatible routes. A request that cannot be honoured is refused in one line, in OpenAI's error shape."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from math import isfinite
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types import Model
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from lts_ray.errors import LtsRayError
from serve.answers import Answers, ChatAnswers, CompletionAnswers, lts, to_json
from serve.api_error import ApiError, as_api_error
from serve.menu import Option
from serve.request_id import RequestIdMiddleware
from serve.schemas import ChatRequest, CompletionRequest, parse
from serve.service import Generation, Service

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
"""More text than any context holds; tokenizing without a bound would hold up every other client."""
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for an answer that nobody waits for."""


def create_app(service: Service, *, answers_request_id: bool = True) -> FastAPI:
    app = FastAPI(title="lts-ray", description="Elastic serving: a submodel for each request's latency budget.")
    app.add_middleware(RequestIdMiddleware, answers=answers_request_id)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        arrived_s = service.engine.clock()
        body = parse(CompletionRequest, await _read(request))
        generation = service.submit(body, request.headers, request_id=request.state.request_id, arrived_s=arrived_s)
        return await _answer(request, body, generation, CompletionAnswers(body.model, uuid4().hex))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        arrived_s = service.engine.clock()
        body = parse(ChatRequest, await _read(request))
        generation = service.submit(body, request.headers, request_id=request.state.request_id, arrived_s=arrived_s)
        return await _answer(request, body, generation, ChatAnswers(body.model, uuid4().hex))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listed = [_model(service, name, option) for name, option in service.models().items()]
        return {"object": "list", "data": listed}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(service, name, service.option(name))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        service.engine.check()
        running, waiting = service.engine.counts()
        return {"status": "ok", "running": running, "waiting": waiting}

    @app.exception_handler(LtsRayError)
    async def refuse(request: Request, error: LtsRayError) -> JSONResponse:
        return as_api_error(error).answer()

    @app.exception_handler(ClientDisconnect)
    async def nobody_waits(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)  # it left before its body had come

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return ApiError(message, status=error.status_code, headers=error.headers).answer()

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        # Starlette logs the traceback; the client needs no more than this.
        return ApiError("the server failed; see its log", status=500, kind="server_error").answer()

    return app


async def _read(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(f"the body is larger than {MAX_BODY_BYTES} bytes", status=413, code="body_too_large")
    return body


async def _answer(
    request: Request, body: CompletionRequest | ChatRequest, generation: Generation, answers: Answers
) -> Response:
    if body.stream:
        return EventStream(generation, _events(generation, answers, wants_usage=body.wants_usage))
    text = await _text_unless_gone(request, generation)
    if text is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(to_json(answers.whole(text, generation)))


async def _text_unless_gone(request: Request, generation: Generation) -> str | None:
    """The whole text, or None as soon as the client has gone: its row must not run on for nobody."""

    async def collect() -> str:
        return "".join([piece async for piece in generation])

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    text, leaving = asyncio.create_task(collect()), asyncio.create_task(gone())
    try:
        await asyncio.wait({text, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return text.result() if text.done() else None
    finally:
        generation.cancel()
        text.cancel()
        leaving.cancel()


class EventStream(StreamingResponse):
    """Server-sent events; however the stream ends, the engine's row is freed."""

    def __init__(self, generation: Generation, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()


async def _events(generation: Generation, answers: Answers, *, wants_usage: bool) -> AsyncIterator[str]:
    """`lts` is in the last chunk, the one with the usage if that was asked for."""
    try:
        first = answers.first()
        if first is not None:
            yield _event(to_json(first))
        async for piece in generation:
            yield _event(to_json(answers.piece(piece)))
    except LtsRayError as error:  # the status line is gone: the error can only be an event
        yield _event(as_api_error(error).body())
    else:
        last = to_json(answers.last(generation))
        if wants_usage:
            yield _event(last)
            last = to_json(answers.usage(generation))
        yield _event(last | lts(generation))
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


def _model(service: Service, name: str, option: Option) -> dict[str, Any]:
    described = {
        "submodel": option.name,
        "widths": option.submodel.to_json(),
        "loss": option.loss if isfinite(option.loss) else None,
    }
    return to_json(Model(id=name, created=service.created, object="model", owned_by="lts-ray"), lts=described)
