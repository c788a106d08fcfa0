"""The requests of the wire: bodies and headers. What would change an answer is honoured, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from serve.http.api_error import ApiError
from serve.http.fields import (
    Biases,
    Content,
    Count,
    HeaderMilliseconds,
    HeaderPriority,
    HeaderSwitch,
    Milliseconds,
    Nothing,
    Penalty,
    PlainText,
    Priority,
    Prompts,
    Repetition,
    Stops,
    Variables,
)
from serve.http.unused_fields import UnusedFields, document_neutral, without_neutral
from serve.policies.budget import Budget


class RequestHeaders(BaseModel):
    """The headers that are read, of every request that generates."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    x_slo_ttft_ms: HeaderMilliseconds = None
    """Budget: milliseconds to the first token"""
    x_slo_tpot_ms: HeaderMilliseconds = None
    """Budget: milliseconds a token after the first"""
    x_slo_e2e_ms: HeaderMilliseconds = None
    """Budget: milliseconds for the whole response"""
    x_llm_d_slo_ttft_ms: HeaderMilliseconds = None
    """llm-d's name of `x-slo-ttft-ms`; of both the tighter one holds"""
    x_llm_d_slo_tpot_ms: HeaderMilliseconds = None
    """llm-d's name of `x-slo-tpot-ms`; of both the tighter one holds"""
    x_priority: HeaderPriority = None
    """As the body's `priority`"""
    x_slo_strict: HeaderSwitch = False
    """Refuse the request with 429 rather than miss its budget"""
    x_lts_trace: HeaderSwitch = False
    """Every chunk of a stream says which submodel wrote it"""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's: with `include_usage`, every chunk has the usage so far"""
    include_obfuscation: Literal[False] | None = None


class GenerationRequest(UnusedFields):
    """What both endpoints take: OpenAI's fields first, then vLLM's, then ours."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=document_neutral,
    )

    model: str
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Biases = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Repetition | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    add_special_tokens: bool | None = None
    """Those that the tokenizer puts around a text; null: for completions, since chat templates write them themselves"""
    latency_budget_ms: Milliseconds | None = None
    """For the whole response"""
    priority: Priority | None = None
    """Of requests that cannot all be in time the lowest number goes first; null: 0"""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> GenerationRequest:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) == 2:
            raise ApiError("max_tokens and max_completion_tokens differ: give one", param="max_completion_tokens")
        if self.stream_options is not None and not self.stream:
            raise ApiError("stream_options is only allowed with stream: true", param="stream_options")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def budget(self, headers: RequestHeaders) -> Budget:
        """The body's and the headers': where two bound the same time, both must hold."""
        return Budget(
            ttft_ms=_tighter(headers.x_slo_ttft_ms, headers.x_llm_d_slo_ttft_ms),
            tpot_ms=_tighter(headers.x_slo_tpot_ms, headers.x_llm_d_slo_tpot_ms),
            e2e_ms=_tighter(headers.x_slo_e2e_ms, self.latency_budget_ms),
        )

    def priority_with(self, headers: RequestHeaders) -> int:
        """Raises ApiError where body and headers differ."""
        given = {self.priority, headers.x_priority} - {None}
        if len(given) == 2:
            raise ApiError("priority and the header x-priority differ: give one", param="priority")
        return next((each for each in given if each is not None), 0)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def wants_running_usage(self) -> bool:
        """In every chunk, as vLLM has it: only where the usage is wanted at all."""
        return self.wants_usage and self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    @property
    def choices(self) -> int:
        """For each prompt."""
        return 1 if self.n is None else self.n

    @property
    def alternatives(self) -> int | None:
        """How many most likely tokens are listed at a place; None for no log probabilities at all."""
        return None


class CompletionRequest(GenerationRequest):
    prompt: Prompts
    """Text, a list of token ids, or a list of either, each answered by itself"""
    best_of: Count | None = None
    """Only as many as `n`"""
    logprobs: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _returns_all_it_makes(self) -> CompletionRequest:
        if self.best_of not in (None, self.choices):
            raise ApiError(
                f"best_of is not supported, other than n, {self.choices}: leave it out",
                param="best_of",
                code="unsupported_value",
            )
        return self

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


MESSAGE_CHARACTERS = 50
"""What a message takes to render, in characters of text."""


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: PlainText | None = None
    """Of the participant: what comes of it is the chat template's affair"""
    type: Literal["text"] | None = None
    refusal: Nothing = None
    annotations: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: Nothing = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        """An answer's message may be sent back as it came, with its null fields."""
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if field is not None or name in cls.model_fields}

    def to_template(self) -> dict[str, str | tuple[str, ...]]:
        """developer is what OpenAI calls system today; chat templates know the older name."""
        named = {} if self.name is None else {"name": self.name}
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content, **named}


class ChatRequest(GenerationRequest):
    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    """Tell the log probability of each token"""
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    """With `logprobs`: of how many of the most likely tokens besides"""
    add_generation_prompt: bool | None = None
    """The prompt ends with the beginning of an answer; null: unless the last message is gone on with"""
    continue_final_message: bool | None = None
    """Go on with the last message, rather than answer it"""
    chat_template_kwargs: Variables = None
    """What the chat template reads besides the messages"""

    @model_validator(mode="after")
    def _goes_on_in_one_way(self) -> ChatRequest:
        if self.continue_final_message and self.add_generation_prompt:
            raise ApiError(
                "continue_final_message and add_generation_prompt cannot both be true", param="continue_final_message"
            )
        return self

    @property
    def characters(self) -> int:
        """About as many as the prompt has; a message without text counts too."""
        parts = [[each.content] if isinstance(each.content, str) else each.content for each in self.messages]
        return sum(MESSAGE_CHARACTERS + sum(map(len, texts)) for texts in parts)

    @model_validator(mode="after")
    def _tops_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ApiError("top_logprobs is only allowed with logprobs: true", param="top_logprobs")
        return self

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


R = TypeVar("R", bound=GenerationRequest)


def parse(kind: type[R], body: bytes) -> R:
    """Raises ApiError that names the first field that is wrong."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(f"the body must be a JSON object; got {_shorten(fields)}")
    try:
        return kind.model_validate(without_neutral(fields, kind))
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from None


def refusal_of_header(problem: Mapping[str, Any]) -> ApiError:
    """problem: as FastAPI reports it."""
    name, message = str(problem["loc"][-1]), problem["msg"].removeprefix("Value error, ")
    return ApiError(f"header {name} {message}; got {_shorten(problem['input'])}", param=name, code="invalid_value")


def _tighter(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _refusal(problem: ErrorDetails) -> ApiError:
    if not problem["loc"]:  # not a value is wrong, but a name
        return ApiError(f"a field's name is no valid Unicode text: {_shorten(problem['input'])}")
    param = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        return ApiError(f"unknown field {param}", param=param, code="unknown_parameter")
    if problem["type"] == "missing":
        return ApiError(f"{param} is required", param=param, code="missing_required_parameter")
    message = problem["msg"].removeprefix("Value error, ")
    return ApiError(f"{param}: {message}; got {_shorten(problem['input'])}", param=param, code="invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """In OpenAI's spelling: `messages[0].role`."""
    first, *rest = (part if isinstance(part, int) else part[:60] for part in location)
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)


def _shorten(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
