"""The OpenAI-compatible routes. A request that cannot be honoured is refused in one line, in OpenAI's error shape."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import time
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect

from lts_ray.errors import LtsRayError
from serve.engine.engine_errors import EngineFailedError
from serve.http.access_log import CLIENT_CLOSED_REQUEST, AccessLogMiddleware
from serve.http.answers import Answers, ChatAnswers, CompletionAnswers
from serve.http.api_error import ApiError, as_api_error, server_failure
from serve.http.event_stream import EventStream, done_before_client_left
from serve.http.generation import Choices, TextPiece
from serve.http.keys import Keys
from serve.http.long_work import done_apart
from serve.http.openapi import DocumentedApp, error_docs, generation_docs, package_version
from serve.http.request_id import RequestIdMiddleware
from serve.http.request_limits import RequestLimits
from serve.http.request_schemas import ChatRequest, CompletionRequest, RequestHeaders, parse, refusal_of_header
from serve.http.request_start import HEADER, passed_s
from serve.http.response_schemas import (
    ChatChunk,
    ChatResponse,
    CompletionChunk,
    CompletionResponse,
    Health,
    ModelList,
    ServedModel,
    ServedSubmodel,
)
from serve.http.service import Service
from serve.policies.menu import Option

GivenKey = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="An API key, as the official clients send it")),
]


def create_app(
    service: Service,
    *,
    keys: Keys | None = None,
    cors_origins: Sequence[str] = (),
    answers_request_id: bool = True,
    metrics: Callable[[], tuple[bytes, str]] | None = None,
    extra_routes: Sequence[APIRouter] = (),
) -> FastAPI:
    """keys: of the clients that may use the routes under /v1; None: all may. metrics: /metrics' answer and its type.

    cors_origins: of the web pages whose scripts may read what is answered, errors included; * stands for all.
    answers_request_id: False where a proxy in front sets the header. extra_routes: pages that need no key; what they
    ask of the model they ask through the routes under /v1.
    """
    app = DocumentedApp(
        names=service.models,
        title="lts-ray",
        version=package_version(),
        description="Elastic serving: a submodel for each request's latency budget.",
    )
    app.add_middleware(ServerErrorMiddleware, handler=_fail)  # the inner one: what follows adds its headers to a 500
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(AccessLogMiddleware, clock=service.engine.clock)
    app.add_middleware(RequestIdMiddleware, answers=answers_request_id)  # the outer one
    guard = [] if keys is None else [Depends(_guard(keys))]
    app.include_router(_with_head(_model_routes(service)), dependencies=guard)
    for router in (_open_routes(service, metrics), *extra_routes):
        app.include_router(_with_head(router))
    _answer_errors(app)
    return app


def _model_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")

    async def answer(
        request: Request,
        headers: RequestHeaders,
        kind: type[CompletionRequest] | type[ChatRequest],
        shape: type[Answers],
    ) -> Response:
        arrived_s = service.engine.clock() - passed_s(request.headers.get(HEADER, ""), time())
        content = await _read(request, service.limits)
        with service.engine.hold:
            await asyncio.sleep(0)  # those that have come at the same moment are counted too
            body = await done_apart(partial(parse, kind, content), characters=len(content))
            choices = await service.submit(body, headers, request_id=request.state.request_id, arrived_s=arrived_s)
        request.state.choices = choices  # for the access log
        answers = shape(body.model, uuid4().hex, service.tokenizer.spelling, wants_usage=body.wants_usage)
        if body.stream:
            return EventStream(choices, answers, wants_usage=body.wants_usage, running_usage=body.wants_running_usage)
        return await _whole(request, choices, answers)

    @router.post(
        "/completions", response_model=CompletionResponse, **generation_docs(CompletionRequest, CompletionChunk)
    )
    async def completions(request: Request, headers: Annotated[RequestHeaders, Header()]) -> Response:
        """Continue a prompt, or several."""
        return await answer(request, headers, CompletionRequest, CompletionAnswers)

    @router.post("/chat/completions", response_model=ChatResponse, **generation_docs(ChatRequest, ChatChunk))
    async def chat_completions(request: Request, headers: Annotated[RequestHeaders, Header()]) -> Response:
        """Answer the last message of a conversation."""
        return await answer(request, headers, ChatRequest, ChatAnswers)

    @router.get("/models", response_model_exclude_unset=True, responses=error_docs(401, 500))
    async def models() -> ModelList:
        """Every name that a request may use as `model`."""
        served = [_served(service, name, option) for name, option in service.models().items()]
        return ModelList(object="list", data=served)

    @router.get("/models/{name:path}", response_model_exclude_unset=True, responses=error_docs(401, 404, 500))
    async def model(name: str) -> ServedModel:
        """What one such name stands for."""
        return _served(service, name, service.option(name))

    return router


def _open_routes(service: Service, metrics: Callable[[], tuple[bytes, str]] | None) -> APIRouter:
    router = APIRouter()

    @router.get("/health", responses=error_docs(500, 503))
    async def health() -> Health:
        """Whether the engine works, and how many requests run and wait."""
        service.engine.check()
        running, waiting = service.engine.counts()
        return Health(status="ok", running=running, waiting=waiting)

    if metrics is not None:

        @router.get("/metrics", response_class=PlainTextResponse, responses=error_docs(500))
        def scrape() -> Response:  # in a thread: it may wait for what other replicas have counted
            """Counters and histograms in Prometheus' text format, under vLLM's names where they exist."""
            body, media_type = metrics()
            return Response(body, headers={"Content-Type": media_type})

    return router


def _with_head(router: APIRouter) -> APIRouter:
    """FastAPI's routes do not answer HEAD by themselves, as Starlette's do. The server leaves the body out."""
    for route in list(router.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            router.add_api_route(
                route.path.removeprefix(router.prefix),
                route.endpoint,
                methods=["HEAD"],
                include_in_schema=False,
                response_model_exclude_unset=route.response_model_exclude_unset,
            )
    return router


def _guard(keys: Keys) -> Callable[..., Any]:
    async def guard(given: GivenKey) -> None:
        if given is None or not keys.accept(given.credentials):
            missing = "an API key is needed: send it as `Authorization: Bearer KEY`"
            raise ApiError(
                missing if given is None else "the API key is not one that this server knows",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return guard


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(LtsRayError)
    async def refuse(request: Request, error: LtsRayError) -> JSONResponse:
        return as_api_error(error).answer()

    @app.exception_handler(RequestValidationError)
    async def refuse_header(request: Request, error: RequestValidationError) -> JSONResponse:
        return refusal_of_header(error.errors()[0]).answer()  # of all that FastAPI reads, only headers can be wrong

    @app.exception_handler(ClientDisconnect)
    async def client_left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)  # before its body had come

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":  # as the one of its two routes says that is asked
            headers["Allow"] = "GET, HEAD"
        return ApiError(message, status=error.status_code, headers=headers).answer()


async def _fail(request: Request, error: Exception) -> JSONResponse:
    """Starlette logs the traceback."""
    return server_failure().answer()


async def _read(request: Request, limits: RequestLimits) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_body_bytes:
                    message = f"the body is larger than {limits.max_body_bytes} bytes"
                    raise ApiError(message, status=413, code="body_too_large")
    except TimeoutError:
        message = f"the body has not come whole in {limits.body_timeout_s:g} s"
        # the rest of it may still come, so the connection is of no more use
        raise ApiError(message, status=408, code="body_timeout", headers={"Connection": "close"}) from None
    return bytes(body)


async def _whole(request: Request, choices: Choices, answers: Answers) -> Response:
    """The whole answer; nothing as soon as the client has left: no row runs on without a reader."""
    pieces: list[list[TextPiece]] = [[] for _ in choices.generations]

    async def collect() -> None:
        async for piece in choices:
            pieces[piece.index].append(piece)

    try:
        if not await done_before_client_left(collect(), request.receive):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        write = partial(_written, answers, pieces, choices)
        return await done_apart(write, characters=answers.characters(choices))
    except EngineFailedError:
        raise
    except Exception:
        choices.fail()
        return server_failure().answer()
    finally:
        choices.cancel()


def _written(answers: Answers, pieces: Sequence[Sequence[TextPiece]], choices: Choices) -> JSONResponse:
    return JSONResponse(answers.whole(pieces, choices))


def _served(service: Service, name: str, option: Option) -> ServedModel:
    """heads, d_model and precision stay unset where the submodel has all, and untrained where it is not."""
    served = ServedSubmodel(
        submodel=option.name,
        **option.submodel.fields(),
        decoder_params=option.decoder_params,
        loss=option.loss,
    )
    if option.untrained:
        served.untrained = True
    return ServedModel(id=name, created=service.created, object="model", owned_by="lts-ray", lts=served)
