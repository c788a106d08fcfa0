"""The playground's server side for its tests: a service with round numbers, and an endpoint that plays a script."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from lts_ray.models.matformer.matformer_config import MatFormerConfig
from lts_ray.runtime.step_costs import StepCosts
from serve.http.playground import playground_router
from serve.policies.menu import Menu, menu_of_granularities
from tests.serve.models import CONFIG

# A step: 1 ms, 0.01 ms a neuron, 1 ms for the head. S, M, L and XL have 24, 48, 96 and 192 neurons: 2.24, 2.48, 2.96
# and 3.92 ms. What is attended is free, so that a first token costs what any other does.
COSTS = StepCosts(grid=(1, 64), base=(1.0, 1.0), neuron=(0.01, 0.01), head=(1.0, 1.0), attended=0.0)
STEP_MS = {"XL": 3.92, "L": 2.96, "M": 2.48, "S": 2.24}
LOSS = {"S": 3.4, "M": 3.3, "L": 3.2, "XL": 3.1}


@dataclass(frozen=True)
class ToyEngine:
    menu: Menu = field(default_factory=lambda: menu_of_granularities(CONFIG, LOSS))
    costs: StepCosts = COSTS
    config: MatFormerConfig = CONFIG


@dataclass(frozen=True)
class ToyTokenizer:
    is_for_chats: bool = False


@dataclass(frozen=True)
class ToyService:
    name: str = "toy"
    tokenizer: ToyTokenizer = ToyTokenizer()
    engine: ToyEngine = field(default_factory=ToyEngine)


@dataclass
class Script:
    """What the endpoint answers, and what it was asked. It says no more than the first chunk until `go` is set."""

    chunks: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[JSONResponse] = field(default_factory=list)
    go: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: bool = False


def piece(text: str, submodel: str, tokens: int, at_ms: float) -> dict[str, Any]:
    trace = {"submodel": submodel, "tokens": tokens, "at_ms": at_ms}
    return {"choices": [{"index": 0, "text": text, "finish_reason": None}], "lts": trace}


def last(*, met: bool | None = None, e2e: float = 90.0) -> dict[str, Any]:
    report = {
        "submodel": "S",
        "tokens": {"S": 2, "XL": 3},
        "predicted_ms": {"ttft": 8.0, "tpot": 21.0, "e2e": 88.0},
        "measured_ms": {"ttft": 10.0, "tpot": 20.0, "e2e": e2e},
        "budget_ms": None,
        "budget_met": met,
    }
    return {"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "lts": report}


PIECES = [piece(" strong", "S", 1, 10.0), piece(" and", "S", 1, 30.0), piece(" free today", "XL", 3, 90.0)]


def refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status_code=status)


@dataclass
class Stage:
    """The endpoint's place for a script; each test brings its own."""

    script: Script
    url: str = ""


def toy_app(stage: Stage, menu: Menu | None = None) -> FastAPI:
    app, engine = FastAPI(), ToyEngine() if menu is None else ToyEngine(menu)
    app.include_router(playground_router(ToyService(engine=engine)))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        options = {"toy": engine.menu.universal, **{f"toy:{name}": each for name, each in engine.menu.named.items()}}
        told = {name: {"submodel": each.name, **each.submodel.fields()} for name, each in options.items()}
        return {"data": [{"id": name, "lts": lts} for name, lts in told.items()]}

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        script = stage.script
        script.bodies.append(await request.json())
        script.headers.append(dict(request.headers))
        if script.refusals:
            return script.refusals.pop()
        return StreamingResponse(stream(script), media_type="text/event-stream")

    async def stream(script: Script) -> AsyncIterator[str]:
        try:
            for number, chunk in enumerate(script.chunks):
                while number and not script.go:
                    await asyncio.sleep(0.01)
                yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            script.left = True
            raise

    return app


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """uvicorn in a thread, on a port that the system chooses. Yields the address of the page."""
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        sleep(0.01)
    host, port = running.servers[0].sockets[0].getsockname()[:2]
    yield f"http://{host}:{port}/playground"
    running.should_exit = True
    thread.join()
