"""Between the wire and the engine: names of models, text to tokens, and which requests a body asks for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, fields, replace
from functools import partial

from lts_ray.decoding.sampling import Sampling
from lts_ray.errors import LtsRayError
from lts_ray.text.tokenizer import Tokenizer
from serve.engine.engine_errors import BudgetInfeasibleError
from serve.engine.response import Response
from serve.engine.serving import Serving
from serve.http.api_error import ApiError
from serve.http.delivery_times import DeliveryTimes
from serve.http.generation import Choices, Generation
from serve.http.long_work import done_apart
from serve.http.request_limits import DEFAULT_LIMITS, RequestLimits
from serve.http.request_schemas import ChatRequest, CompletionRequest, GenerationRequest, RequestHeaders
from serve.http.response_text import ResponseText
from serve.policies.delivery import Delivery
from serve.policies.menu import Option
from serve.policies.request import Request

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's own default."""
DEFAULT_CHAT_TOKENS = 256
"""OpenAI lets a chat go on as long as it fits; a bound keeps one careless request from holding a row for minutes."""
SAMPLED = {field.name for field in fields(Sampling)}
"""The fields of a body that Sampling has too, under the same names."""


@dataclass(frozen=True, kw_only=True)
class Service:
    engine: Serving
    tokenizer: Tokenizer
    name: str
    """What clients call the model."""
    created: int
    """When it came up, in Unix seconds."""
    limits: RequestLimits = DEFAULT_LIMITS
    deliveries: DeliveryTimes = field(default_factory=DeliveryTimes)

    def models(self) -> dict[str, Option]:
        """All names that a request may use: the universal model, then each submodel as `name:submodel`."""
        menu = self.engine.menu
        return {self.name: menu.universal} | {f"{self.name}:{name}": option for name, option in menu.named.items()}

    def option(self, model: str) -> Option:
        options = self.models()
        if model not in options:
            raise ApiError(
                f"the model {model[:100]!a} does not exist; this server has: {', '.join(options)}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return options[model]

    async def submit(
        self, body: CompletionRequest | ChatRequest, headers: RequestHeaders, *, request_id: str, arrived_s: float
    ) -> Choices:
        """Queue all that a body asks for, or nothing of it. Raises ApiError, or what Engine.submit raises."""
        safe = self.deliveries.safe(whole=not body.stream)
        requests = await self._requests(body, headers, request_id)
        generations: list[Generation] = []
        try:
            for index, request in enumerate(requests):
                if index:
                    await asyncio.sleep(0)  # to judge one takes a while: the streams get their turn in between
                text = ResponseText(
                    self.tokenizer, body.stop, prompt=request.prompt, min_tokens=request.sampling.min_tokens
                )
                response = self._submit(request, arrived_s, safe)
                generation = Generation(
                    response,
                    request,
                    text,
                    index=index,
                    traced=headers.x_lts_trace,
                    untrained=self.engine.menu.untrained,
                )
                generations.append(generation)
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise
        prompt_tokens = sum(len(request.prompt) for request in requests[:: body.choices])
        return Choices(
            generations=tuple(generations),
            prompt_tokens=prompt_tokens,
            whole=not body.stream,
            deliveries=self.deliveries,
        )

    def _submit(self, request: Request, arrived_s: float, delivery: Delivery) -> Response:
        """delivery: what was taken off its budget, so that a client who is refused asks for enough."""
        try:
            return self.engine.submit(request, arrived_s=arrived_s)
        except BudgetInfeasibleError as error:
            feasible = delivery.budget_ms(error.smallest_feasible_ms)
            raise BudgetInfeasibleError(feasible, retry_after_s=error.retry_after_s) from None

    async def _requests(
        self, body: CompletionRequest | ChatRequest, headers: RequestHeaders, request_id: str
    ) -> list[Request]:
        """All choices of the first prompt, then of the next. A seed counts up, anew for each prompt."""
        self.limits.check(body, places=self.engine.capacity.max_queue)
        option = self.option(body.model)
        field = "prompt" if isinstance(body, CompletionRequest) else "messages"
        sampling, asked = self._sampling(body), body.budget(headers)
        requests = []
        for prompt in await self._prompts(body):
            self.limits.check_prompt(len(prompt), field)
            first = Request(
                prompt=prompt,
                max_tokens=self._max_tokens(body, len(prompt), field),
                sampling=sampling,
                seed=body.seed,
                budget=self.deliveries.safe(whole=not body.stream).off(asked),
                asked=asked,
                delivery=self.deliveries.likely(whole=not body.stream),
                pinned=None if body.model == self.name else option,
                priority=body.priority_with(headers),
                strict=headers.x_slo_strict,
                whole=not (body.stream or body.stop),
                label=request_id,
                ignore_eos=bool(body.ignore_eos),
                top_logprobs=body.alternatives,
            )
            if sampling.min_tokens > first.max_tokens:
                raise ApiError(
                    f"min_tokens is above the most that the response may have, {first.max_tokens} tokens",
                    param="min_tokens",
                    code="invalid_value",
                )
            seeds = (None if body.seed is None else body.seed + count for count in range(body.choices))
            requests += [replace(first, seed=seed) for seed in seeds]
        return requests

    def _sampling(self, body: GenerationRequest) -> Sampling:
        size = self.engine.config.vocab_size
        unknown = next((token for token in body.logit_bias or () if token >= size), None)
        if unknown is not None:
            raise ApiError(
                f"logit_bias: token id {unknown} is not below the vocabulary's size, {size}",
                param="logit_bias",
                code="invalid_value",
            )
        given = {"temperature": 1.0, **body.model_dump(include=SAMPLED, exclude_none=True)}
        return Sampling(**given | {"top_k": min(max(0, body.top_k or 0), size)})

    async def _prompts(self, body: CompletionRequest | ChatRequest) -> list[tuple[int, ...]]:
        if isinstance(body, ChatRequest):
            try:
                render = partial(
                    self.tokenizer.render_chat,
                    [message.to_template() for message in body.messages],
                    add_generation_prompt=body.add_generation_prompt is not False and not body.continue_final_message,
                    continue_final_message=bool(body.continue_final_message),
                    variables=body.chat_template_kwargs,
                )
                text = await done_apart(render, characters=body.characters)
            except LtsRayError as error:
                raise ApiError(str(error), param="messages") from None
            return [await self._encode(text, add_special_tokens=bool(body.add_special_tokens))]
        special = body.add_special_tokens is not False
        return [
            await self._encode(prompt, add_special_tokens=special) if isinstance(prompt, str) else self._known(prompt)
            for prompt in body.prompt
        ]

    async def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        encode = partial(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)
        return tuple(await done_apart(encode, characters=len(text)))

    def _known(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        size = self.engine.config.vocab_size
        if max(prompt, default=0) >= size:
            unknown = next(token for token in prompt if token >= size)
            shown = unknown if unknown < 10**9 else "far above"
            raise ApiError(
                f"prompt: token ids are below the vocabulary's size, {size}; got {shown}",
                param="prompt",
                code="invalid_value",
            )
        return prompt

    def _max_tokens(self, body: GenerationRequest, prompt_tokens: int, field: str) -> int:
        context = self.engine.config.context_length
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
