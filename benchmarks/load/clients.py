"""Clients that replay a load against an engine in this process or a server's URL.

Open loop: a request is sent when it is due, whichever others still wait for answers. Times count from there, so that a
late client is no excuse; a server's are measured where a user would, at the client.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import httpx

from benchmarks.load.served_outcome import ServedOutcome
from lts_ray.errors import LtsRayError
from lts_ray.timing import Clock
from serve.engine.engine_errors import BudgetInfeasibleError, EngineFailedError, QueueFullError
from serve.engine.serving import Serving
from serve.policies.budget import KINDS, Timing
from serve.simulate.request_outcome import Outcome, refused
from serve.traffic.arrival import Arrival

Prompt = tuple[int, ...]
Ask = Callable[[Arrival, Prompt, float], Awaitable[Outcome]]
"""Sends one request, which was due at a time of the client's clock, and returns what became of it."""
BUSY = (429, 503)
REFUSED = (400, 401, 403, 404, 422)
"""The load itself is wrong, and so would be all its other requests."""
CONNECT_S = 10.0


async def replay_load(
    ask: Ask,
    arrivals: Iterable[Arrival],
    prompts: Iterable[Prompt],
    *,
    clock: Clock,
    ended: Callable[[int, Outcome], None],
) -> None:
    """`ask` each request when it is due. Keeps nothing of what has ended: a load may go on for hours.

    ended: told the number of the arrival, from 0, and what became of it. The first error of a request, or of the caller
    that awaits this, ends all of them.
    """
    begin_s = clock()

    async def run(number: int, arrival: Arrival, prompt: Prompt, due_s: float) -> None:
        ended(number, await ask(arrival, prompt, due_s))

    try:
        async with asyncio.TaskGroup() as open_requests:
            for number, (arrival, prompt) in enumerate(zip(arrivals, prompts, strict=False)):
                due_s = begin_s + arrival.at_ms / 1e3
                await asyncio.sleep(max(0.0, due_s - clock()))
                open_requests.create_task(run(number, arrival, prompt, due_s))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # an LtsRayError is for the user, who has no use for a group of them


def engine_client(engine: Serving, *, by_client: bool = False) -> Ask:
    """Of an engine or a fleet, whose clock is the client's, and which must have been started.

    by_client: times are of when tokens reach the client, not of when they were made.
    """

    async def ask(arrival: Arrival, prompt: Prompt, due_s: float) -> Outcome:
        try:
            response = engine.submit(arrival.request(prompt), arrived_s=due_s)
        except (QueueFullError, BudgetInfeasibleError):
            return refused(arrival, "rejected", {})
        except EngineFailedError:
            return refused(arrival, "failed", {})
        progress, times_s = response.progress, []
        try:
            async for _ in response:
                times_s.append(engine.clock())
        except EngineFailedError:
            return refused(arrival, "failed", progress.submodels)
        finally:
            response.cancel()
        seen = _timing_of(due_s, times_s[0], times_s[-1], progress.tokens) if by_client else progress.measured()
        return Outcome(
            arrival=arrival,
            status="done",
            timing=seen,
            submodels=dict(progress.submodels),
            predicted=None if progress.predicted is None else progress.predicted.likely,
        )

    return ask


@asynccontextmanager
async def server_client(url: str) -> AsyncIterator[Ask]:
    """url: without the `/v1`. Its clock is `monotonic`. Raises LtsRayError where no server answers there.

    A response is streamed where its first token counts: without a budget, or with one for more than the whole response.
    """
    timeout = httpx.Timeout(None, connect=CONNECT_S)
    # as many connections as there are requests: to wait for one would be a queue in front of the queue
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    try:
        client = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=timeout, limits=limits, trust_env=False)
    except httpx.InvalidURL as error:
        raise LtsRayError(f"{url!r} is not a URL such as http://127.0.0.1:8000: {error}") from None
    async with client:
        model = await _served_model(client)

        async def ask(arrival: Arrival, prompt: Prompt, due_s: float) -> Outcome:
            try:
                return await _ask_server(client, arrival, prompt, model=model, due_s=due_s)
            except httpx.HTTPError:
                return refused(arrival, "failed", {})

        yield ask


async def _served_model(client: httpx.AsyncClient) -> str:
    """What the server calls its universal model."""
    try:
        answer = await client.get("/v1/models")
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LtsRayError(f"no endpoint answers at {client.base_url}: {error or type(error).__name__}") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise LtsRayError(f"what answers at {client.base_url}v1/models is no list of models") from None


async def _ask_server(
    client: httpx.AsyncClient, arrival: Arrival, prompt: Prompt, *, model: str, due_s: float
) -> Outcome:
    streamed = arrival.budget.items().keys() != {"e2e"}
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": arrival.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": streamed,
    }
    headers = {f"x-slo-{kind}-ms": repr(limit) for kind, limit in arrival.budget.items().items()}
    first_s = last_s = None
    report: dict[str, Any] | None = None
    async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
        if answer.status_code in REFUSED:
            raise LtsRayError(f"the endpoint refuses the load: {_message(await answer.aread())}")
        if answer.status_code != 200:
            return refused(arrival, "rejected" if answer.status_code in BUSY else "failed", {})
        async for line in answer.aiter_lines():
            if streamed and (not line.startswith("data: ") or line == "data: [DONE]"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                return refused(arrival, "failed", {})
            last_s = monotonic()
            first_s = last_s if first_s is None else first_s
            report = event.get("lts", report)
    if report is None or first_s is None or last_s is None:
        return refused(arrival, "failed", {})
    submodels = {str(name): int(count) for name, count in report["tokens"].items()}
    interval = (report.get("predicted_interval_ms") or {}).get("e2e")
    return ServedOutcome(
        arrival=arrival,
        status="done",
        timing=_timing_of(due_s, first_s, last_s, sum(submodels.values())),
        submodels=submodels,
        predicted=_timing(report["predicted_ms"]),
        reported=_timing(report["measured_ms"]),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        streamed=streamed,
    )


def _timing_of(due_s: float, first_s: float, last_s: float, tokens: int) -> Timing:
    return Timing(
        ttft_ms=1e3 * (first_s - due_s),
        tpot_ms=1e3 * (last_s - first_s) / max(1, tokens - 1),
        e2e_ms=1e3 * (last_s - due_s),
    )


def _timing(by_kind: Mapping[str, float] | None) -> Timing | None:
    return None if by_kind is None else Timing(**{f"{kind}_ms": by_kind[kind] for kind in KINDS})


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
