"""A page to try budgets on, and the frontier that it draws. The page is static files; nothing is fetched elsewhere.

The page asks as any client does, a model that has a chat template as a chat, with the header `x-lts-trace: true`, so
that every chunk of the stream says which submodel wrote it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import JSONResponse

from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.models.elastic_config import STORED
from lts_ray.runtime.step_costs import StepCosts
from serve.http.service import Service
from serve.policies.menu import Menu, Option

STATIC = Path(__file__).parent / "static"
PARTS = ("playground.css", "playground.js", "answer.js", "chart.js", "stream.js", "submodels.js", "view.js")
MEDIA = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
"""The page shows what a model wrote: whatever that is, it can neither run nor load anything."""

PROMPT_TOKENS = 32
"""Of the prompt whose first token is predicted."""


def playground_router(service: Service) -> APIRouter:
    """GET /playground, the files that it loads, and /playground/frontier."""
    router = APIRouter(include_in_schema=False)

    @router.get("/playground")
    async def page() -> Response:
        return _file("playground.html")

    @router.get("/playground/frontier")
    async def points() -> Response:
        engine = service.engine
        body = frontier(service.name, engine.menu, engine.costs, engine.config)
        return JSONResponse(body | {"chat": service.tokenizer.is_for_chats}, headers=HEADERS)

    @router.get("/playground/{name}")
    async def part(name: str) -> Response:
        if name not in PARTS:
            raise HTTPException(404)
        return _file(name)

    return router


def frontier(model: str, menu: Menu, costs: StepCosts, config: DecoderConfig) -> dict[str, Any]:
    """Every submodel that can be named, widest first, and what it is predicted to cost a request that is alone.

    loss: None where none was measured; likely_loss: where it is drawn all the same. relative_size: decoder parameters
    over the universal model's. predicted_ttft_ms: the first token, after a short prompt. predicted_tpot_ms: a further
    one, with the context half full. elastic: whether budgets choose it. untrained: whether nothing vouches for it.
    """
    elastic = {option.name for option in menu.elastic}
    options = sorted(menu.options, key=lambda option: option.neurons, reverse=True)
    return {
        "model": model,
        "universal": menu.universal.name,
        "options": [
            {
                "name": option.name,
                "precision": option.submodel.precision or STORED,
                "loss": option.loss,
                "likely_loss": option.likely_loss,
                "decoder_params": option.decoder_params,
                "relative_size": option.decoder_params / menu.universal.decoder_params,
                "predicted_ttft_ms": _alone_ms(option, costs, tokens=PROMPT_TOKENS, before=0),
                "predicted_tpot_ms": _alone_ms(option, costs, tokens=1, before=config.context_length // 2),
                "elastic": option.name in elastic,
                "untrained": option.untrained,
            }
            for option in options
        ],
    }


def _alone_ms(option: Option, costs: StepCosts, *, tokens: int, before: int) -> float:
    """A step with one sequence in it. Each token looks at those before it and at itself."""
    attended = tokens * before + tokens * (tokens + 1) // 2
    return costs.step_ms([option.group(tokens, attended, 1)])


def _file(name: str) -> Response:
    content = (STATIC / name).read_bytes()
    return Response(content, media_type=MEDIA[name.rpartition(".")[2]], headers=HEADERS)
