"""Between the wire and the engine: names of models, text to tokens and back, and what a response tells about itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, cast

from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.tokenizer import Tokenizer
from serve.api_error import ApiError
from serve.budget import KINDS, Budget
from serve.engine import Engine
from serve.menu import Option
from serve.request import Request
from serve.response import Response
from serve.schemas import ChatRequest, CompletionRequest, GenerationRequest
from serve.text import ResponseText

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's own default."""
DEFAULT_CHAT_TOKENS = 256
"""OpenAI lets a chat go on as long as it fits; a bound keeps one careless request from holding a row for minutes."""


class Generation:
    """One response as text. Iterate for the pieces; what it tells of itself is final afterwards."""

    def __init__(self, response: Response, request: Request, text: ResponseText) -> None:
        self._response, self._request, self._text = response, request, text

    async def __aiter__(self) -> AsyncIterator[str]:
        """Frees the engine's row when the reader stops, for whatever reason."""
        try:
            async for token in self._response:
                if piece := self._text.push(token.id):
                    yield piece
                if self._text.stopped:
                    break
            if piece := self._text.finish():
                yield piece
        finally:
            self._response.cancel()

    def cancel(self) -> None:
        self._response.cancel()

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """A response that ran into max_tokens with a stop string in its last token has stopped."""
        return "stop" if self._text.stopped or self._response.finish_reason != "length" else "length"

    @property
    def prompt_tokens(self) -> int:
        return len(self._request.prompt)

    @property
    def completion_tokens(self) -> int:
        return self._response.progress.tokens

    def report(self) -> dict[str, Any]:
        """The `lts` field of the answer."""
        progress, budget = self._response.progress, self._request.budget
        predicted, measured = progress.predicted, progress.measured()
        return {
            "submodel": progress.submodel,
            "tokens": dict(progress.submodels),
            "predicted_ms": predicted and predicted.to_json(),
            "measured_ms": measured and measured.to_json(),
            "budget_ms": budget.items() or None,
            "budget_met": budget.holds(measured) if budget and measured is not None else None,
        }


@dataclass(frozen=True, kw_only=True)
class Service:
    """name: what clients call the model. created: when it came up, in Unix seconds."""

    engine: Engine
    tokenizer: Tokenizer
    name: str
    created: int

    def models(self) -> dict[str, Option]:
        """All names that a request may use: the universal model, then each submodel as `name:submodel`."""
        menu = self.engine.menu
        return {self.name: menu.universal} | {f"{self.name}:{name}": option for name, option in menu.named.items()}

    def option(self, model: str) -> Option:
        options = self.models()
        if model not in options:
            raise ApiError(
                f"the model {model[:100]!r} does not exist; this server has: {', '.join(options)}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return options[model]

    def submit(
        self, body: CompletionRequest | ChatRequest, headers: Mapping[str, str], *, request_id: str, arrived_s: float
    ) -> Generation:
        """Queue a request of the wire. Raises ApiError or what Engine.submit raises; nothing is kept then."""
        option = self.option(body.model)
        pinned = None if body.model == self.name else option
        field = "prompt" if isinstance(body, CompletionRequest) else "messages"
        prompt = self._prompt_tokens(body)
        request = Request(
            prompt=prompt,
            max_tokens=self._max_tokens(body, len(prompt), field),
            sampling=Sampling(
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
            ),
            seed=body.seed,
            budget=read_budget(body, headers),
            pinned=pinned,
            strict=_read_switch(headers, "x-slo-strict"),
            label=request_id,
        )
        response = self.engine.submit(request, arrived_s=arrived_s)
        return Generation(response, request, ResponseText(self.tokenizer, body.stop))

    def _prompt_tokens(self, body: CompletionRequest | ChatRequest) -> tuple[int, ...]:
        if isinstance(body, ChatRequest):
            messages = [cast(dict[str, str], message.model_dump()) for message in body.messages]
            try:
                text = self.tokenizer.render_chat(messages)
            except LtsRayError as error:
                raise ApiError(str(error), param="messages") from None
            return tuple(self.tokenizer.encode(text))
        if isinstance(body.prompt, str):
            return tuple(self.tokenizer.encode(body.prompt))
        size = self.engine.model.config.vocab_size
        unknown = next((token for token in body.prompt if token >= size), None)
        if unknown is not None:
            raise ApiError(f"prompt: token id {unknown} is not below the vocabulary's size, {size}", param="prompt")
        return body.prompt

    def _max_tokens(self, body: GenerationRequest, prompt_tokens: int, field: str) -> int:
        context = self.engine.model.config.context_length
        room, limit = context - prompt_tokens, body.token_limit
        if prompt_tokens < 1:
            raise ApiError(f"{field} is empty: give at least one token", param=field, code="empty_prompt")
        if room < 1:
            raise ApiError(
                f"{field} has {prompt_tokens} tokens, which leaves no room in the context of {context} tokens",
                param=field,
                code="context_length_exceeded",
            )
        if limit is None:
            return min(room, DEFAULT_COMPLETION_TOKENS if field == "prompt" else DEFAULT_CHAT_TOKENS)
        if limit > room:
            raise ApiError(
                f"{prompt_tokens} prompt tokens leave room for {room} in the context of {context} tokens; "
                f"got max_tokens {limit if limit < 10**9 else 'far above'}",
                param="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
                code="context_length_exceeded",
            )
        return limit


def read_budget(body: GenerationRequest, headers: Mapping[str, str]) -> Budget:
    """The body's budget and the headers'; where both bound the whole response, both must hold."""
    limits = {kind: _read_limit(headers, f"x-slo-{kind}-ms") for kind in KINDS}
    e2e = [limit for limit in (limits["e2e"], body.latency_budget_ms) if limit is not None]
    return Budget(ttft_ms=limits["ttft"], tpot_ms=limits["tpot"], e2e_ms=min(e2e, default=None))


def _read_limit(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = float("nan")
    if not isfinite(limit) or limit <= 0:
        raise ApiError(
            f"header {name} must be a positive number of milliseconds; got {text[:40]!a}",
            param=name,
            code="invalid_value",
        )
    return limit


def _read_switch(headers: Mapping[str, str], name: str) -> bool:
    text = headers.get(name, "false").strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise ApiError(f"header {name} must be true or false; got {text[:40]!a}", param=name, code="invalid_value")
    return text in ("true", "1")
