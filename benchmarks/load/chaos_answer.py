"""A request whose whole answer is known beforehand, and what its client sees: each token's moment, how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx
import numpy as np

from serve.traffic.load import draw_lengths

STYLES = ("greedy", "pinned", "seeded", "budget")
"""By turns. Only with a budget may the load choose the width, and with it the text."""


@dataclass(frozen=True, kw_only=True)
class ChaosRequest:
    number: int
    model: str
    prompt: list[int]
    max_tokens: int

    @property
    def style(self) -> str:
        return STYLES[self.number % len(STYLES)]


def draw_requests(count: int, *, seed: int, models: list[str], vocab_size: int, context: int) -> list[ChaosRequest]:
    """models: as /v1/models names them, the universal one first."""
    rng = np.random.default_rng(seed)
    requests = []
    for number, (prompt, output) in enumerate(draw_lengths(count, rng, context_length=context).tolist()):
        pinned = STYLES[number % len(STYLES)] == "pinned"
        model = models[1:][number % (len(models) - 1)] if pinned else models[0]
        tokens = rng.integers(vocab_size, size=prompt).tolist()
        requests.append(ChaosRequest(number=number, model=model, prompt=tokens, max_tokens=output))
    return requests


@dataclass(kw_only=True)
class ChaosAnswer:
    """Moments are by the client's clock."""

    request: ChaosRequest
    sent_s: float
    ended_s: float = 0.0
    token_s: list[float] = field(default_factory=list)
    """When text came."""
    text: str = ""
    error: str | None = None
    """What it was told in OpenAI's shape, in place of an answer or after a part of it."""
    broken: str | None = None
    """How the connection ended before the answer was whole."""
    reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    lts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """It says that it has ended, and all its tokens are counted once."""
        counts = self.usage.get("prompt_tokens"), self.usage.get("completion_tokens")
        wanted = len(self.request.prompt), self.request.max_tokens
        return self.error is None and self.broken is None and self.reason == "length" and counts == wanted


async def ask_stream(client: httpx.AsyncClient, request: ChaosRequest, budget_ms: float | None = None) -> ChaosAnswer:
    """budget_ms: for the whole response, of a request that is to have one."""
    answer = ChaosAnswer(request=request, sent_s=monotonic())
    headers = {} if budget_ms is None or request.style != "budget" else {"x-slo-e2e-ms": f"{budget_ms:.1f}"}
    body = {"model": request.model, "prompt": request.prompt, "max_tokens": request.max_tokens, "ignore_eos": True}
    body |= {"temperature": 0.8 if request.style == "seeded" else 0, "seed": request.number}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
            if response.status_code == 200:
                await _read(response, answer)
            else:
                _read_error(await response.aread(), answer)
    except httpx.HTTPError as error:
        answer.broken = f"{type(error).__name__}: {error}"
    answer.ended_s = monotonic()
    return answer


async def _read(response: httpx.Response, answer: ChaosAnswer) -> None:
    async for line in response.aiter_lines():
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            return
        if data == line:
            continue
        event = json.loads(data)
        if "error" in event:
            _read_error(data, answer)
            return
        for choice in event["choices"]:
            if choice["text"]:
                answer.token_s.append(monotonic())
                answer.text += choice["text"]
            answer.reason = choice["finish_reason"] or answer.reason
        answer.usage, answer.lts = event.get("usage") or answer.usage, event.get("lts") or answer.lts
    answer.broken = "the stream ended without [DONE]"


def _read_error(content: bytes | str, answer: ChaosAnswer) -> None:
    """Anything else than OpenAI's shape tells a client nothing."""
    try:
        answer.error = str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        answer.broken = f"no error in OpenAI's shape: {content[:200]!r}"
