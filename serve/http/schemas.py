"""The requests of the wire. A field is honoured, or refused by name: nothing is accepted and then ignored.

`user` is the one exception: OpenAI defines it as a label for abuse monitoring, and it changes no answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve.http.api_error import ApiError
from serve.http.fields import Biases, Count, Milliseconds, Penalty, Prompts, Repetition, Stops, Text

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": (),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of OpenAI's and vLLM's APIs that are not offered, and the values, besides null, that ask for nothing."""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class GenerationRequest(BaseModel):
    """What both endpoints take, OpenAI's fields first, then vLLM's. latency_budget_ms: for the whole response."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Biases = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Repetition | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    latency_budget_ms: Milliseconds | None = None

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

    @property
    def choices(self) -> int:
        """For each prompt."""
        return 1 if self.n is None else self.n

    @property
    def alternatives(self) -> int | None:
        """How many most likely tokens are to be told at each place; None for no log probabilities at all."""
        return None


class CompletionRequest(GenerationRequest):
    """prompt: text, a list of token ids, or a list of either, each answered by itself. best_of: only as many as n."""

    prompt: Prompts
    best_of: Count | None = None
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


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        """An answer's message may be sent back as it came, with its null fields."""
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if each is not None or name in cls.model_fields}

    def to_template(self) -> dict[str, str]:
        """developer is what OpenAI calls system today; chat templates know the older name."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatRequest(GenerationRequest):
    """logprobs switches log probabilities on; top_logprobs says how many more than the chosen token's."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None

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
    kept = {name: value for name, value in fields.items() if not _asks_for_nothing(name, value, kind)}
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        raise _refusal(error) from None


def _asks_for_nothing(name: str, value: object, kind: type[GenerationRequest]) -> bool:
    """True for a field at its neutral value. Raises ApiError for one at another value."""
    if name in kind.model_fields or name not in NEUTRAL:
        return False
    neutral = NEUTRAL[name]
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
