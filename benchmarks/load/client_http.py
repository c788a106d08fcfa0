"""Replays a load against a server's URL, streaming, and measures where a user would: at the client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import httpx

from benchmarks.load.client_engine import Ask, Prompt, replay
from lts_ray.errors import LtsRayError
from serve.policies.budget import KINDS, Timing
from serve.simulate.arrival import Arrival
from serve.simulate.request_outcome import Outcome, refused

BUSY = (429, 503)
CONNECT_S = 10.0


async def replay_on_url(url: str, arrivals: Sequence[Arrival], prompts: Iterable[Prompt]) -> tuple[Outcome, ...]:
    """url: without the `/v1`. Returns when all have been answered. Raises LtsRayError where no server answers there."""
    outcomes: dict[int, Outcome] = {}
    async with connected(url) as client:
        ask = await asking(client)
        await replay(ask, arrivals, prompts, clock=monotonic, ended=outcomes.__setitem__)
    return tuple(outcomes[number] for number in range(len(arrivals)))


async def asking(client: httpx.AsyncClient) -> Ask:
    model = await served_model(client)

    async def ask(arrival: Arrival, prompt: Prompt, due_s: float) -> Outcome:
        return await ask_url(client, arrival, prompt, model=model, due_s=due_s)

    return ask


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """As many connections as there are requests: to wait for one would be a queue in front of the queue."""
    timeout = httpx.Timeout(None, connect=CONNECT_S)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    try:
        client = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=timeout, limits=limits, trust_env=False)
    except httpx.InvalidURL as error:
        raise LtsRayError(f"{url!r} is not a URL such as http://127.0.0.1:8000: {error}") from None
    async with client:
        yield client


async def served_model(client: httpx.AsyncClient) -> str:
    """What the server calls its universal model."""
    try:
        answer = await client.get("/v1/models")
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LtsRayError(f"no endpoint answers at {client.base_url}: {error or type(error).__name__}") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise LtsRayError(f"what answers at {client.base_url}v1/models is no list of models") from None


async def ask_url(client: httpx.AsyncClient, arrival: Arrival, prompt: Prompt, *, model: str, due_s: float) -> Outcome:
    """due_s: by `monotonic`; times count from there."""
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": arrival.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    headers = {f"x-slo-{kind}-ms": repr(limit) for kind, limit in arrival.budget.items().items()}
    first_s = last_s = None
    report: dict[str, Any] | None = None
    try:
        async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            if answer.status_code in BUSY:
                return refused(arrival, "rejected", {})
            if answer.status_code in (400, 401, 403, 404, 422):  # the load itself is wrong, and so would be all others
                raise LtsRayError(f"the endpoint refuses the load: {_message(await answer.aread())}")
            if answer.status_code != 200:
                return refused(arrival, "failed", {})
            async for event in _events(answer):
                if "error" in event:
                    return refused(arrival, "failed", {})
                last_s = monotonic()
                first_s = last_s if first_s is None else first_s
                report = event.get("lts", report)
    except httpx.HTTPError:
        return refused(arrival, "failed", {})
    if report is None or first_s is None or last_s is None:
        return refused(arrival, "failed", {})
    submodels = {str(name): int(count) for name, count in report["tokens"].items()}
    predicted = report["predicted_ms"]
    return Outcome(
        arrival=arrival,
        status="done",
        timing=Timing(
            ttft_ms=1e3 * (first_s - due_s),
            tpot_ms=1e3 * (last_s - first_s) / max(1, sum(submodels.values()) - 1),
            e2e_ms=1e3 * (last_s - due_s),
        ),
        submodels=submodels,
        predicted=predicted and Timing(**{f"{kind}_ms": predicted[kind] for kind in KINDS}),
    )


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
