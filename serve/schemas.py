"""The requests of the wire. A field is honoured, or refused by name: nothing is accepted and then ignored.

`user` is the one exception: OpenAI defines it as a label for abuse monitoring, and it changes no answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from serve.api_error import ApiError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "suffix": (),
    "top_logprobs": (0,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "web_search_options": (),
    "prompt_cache_key": (),
    "safety_identifier": (),
}
"""Fields of OpenAI's and vLLM's APIs that are not offered, and the values, besides null, that ask for nothing."""


def _is_text(value: str) -> str:
    """JSON can hold halves of a surrogate pair, which no tokenizer can encode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode text, without lone surrogates") from None
    return value


def _as_stops(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(each, str) and each for each in stops):
        raise ValueError("must be one text or a list of texts, none of them empty")
    return tuple(_is_text(each) for each in stops)


def _as_single_prompt(value: object) -> object:
    prompt = value[0] if isinstance(value, list) and len(value) == 1 and not _is_token(value[0]) else value
    if isinstance(prompt, str):
        return _is_text(prompt)
    if isinstance(prompt, list) and all(_is_token(each) for each in prompt):
        return tuple(prompt)
    if isinstance(prompt, list) and len(prompt) > 1:
        raise ValueError(f"holds {len(prompt)} prompts, or a mixture; one prompt a request is supported")
    raise ValueError("must be text, a list of token ids, or a list with one of them")


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


Text = Annotated[str, AfterValidator(_is_text)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class GenerationRequest(BaseModel):
    """What both endpoints take. latency_budget_ms: for the whole response."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(_as_stops)] = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    latency_budget_ms: Positive | None = None

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

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(GenerationRequest):
    """prompt: text, a list of token ids, or a list that holds one text or one list of token ids."""

    prompt: Annotated[str | tuple[int, ...], BeforeValidator(_as_single_prompt)]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: Text


class ChatRequest(GenerationRequest):
    messages: Annotated[list[Message], Field(min_length=1)]


R = TypeVar("R", bound=GenerationRequest)


def parse(kind: type[R], body: bytes) -> R:
    """Raises ApiError that names the first field that is wrong."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(f"the body must be a JSON object; got {_shorten(fields)}")
    kept = {name: value for name, value in fields.items() if not _asks_for_nothing(name, value, kind)}
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        raise _refusal(error) from None


def _asks_for_nothing(name: str, value: object, kind: type[GenerationRequest]) -> bool:
    """True for a field at its neutral value. Raises ApiError for one at another value."""
    if name == "logprobs":  # a number of completions' alternatives, but a switch of chat
        neutral: tuple[object, ...] = (False,) if kind is ChatRequest else ()
    elif name in NEUTRAL:
        neutral = NEUTRAL[name]
    else:
        return False
    if value is None or any(_same(value, each) for each in neutral):
        return True
    allowed = " or ".join(json.dumps(each) for each in (*neutral, None))
    raise ApiError(
        f"{name} is not supported: leave it out or set it to {allowed}", param=name, code="unsupported_value"
    )


def _same(value: object, neutral: object) -> bool:
    """Equal, and of one JSON type: true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _refusal(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False)[0]
    param = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        return ApiError(f"unknown field {param}", param=param, code="unknown_parameter")
    if problem["type"] == "missing":
        return ApiError(f"{param} is required", param=param, code="missing_required_parameter")
    message = problem["msg"].removeprefix("Value error, ")
    return ApiError(f"{param}: {message}; got {_shorten(problem['input'])}", param=param, code="invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """In OpenAI's spelling: `messages[0].role`."""
    return str(location[0]) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:])


def _shorten(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
