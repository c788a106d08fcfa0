"""The kinds of field and header of the wire: what one takes, how it refuses, and how the OpenAPI document has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import MaxLen, MinLen
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from lts_ray.decoding.sampling import MAX_BIAS, MIN_REPETITION_PENALTY


def _is_text(value: str) -> str:
    """JSON can hold halves of a surrogate pair, which no tokenizer can encode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode text, without lone surrogates") from None
    return value


def _as_variables(value: object) -> dict[str, object] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("must be an object: the names and values that the template reads")
    taken = next(
        (name for name in ("messages", "add_generation_prompt", "continue_final_message") if name in value), None
    )
    if taken is not None:
        raise ValueError(f"cannot have {taken}, which is a field of the request")
    return value


def _as_stops(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("must be one text or a list of texts, none of them empty")
    return tuple(map(_is_text, stops))


def _as_prompts(value: object) -> tuple[str | tuple[int, ...], ...]:
    prompts: list[object] = value if isinstance(value, list) and value and not _is_token(value[0]) else [value]
    texts = [_is_text(prompt) for prompt in prompts if isinstance(prompt, str)]
    ids = [tuple(prompt) for prompt in prompts if isinstance(prompt, list) and all(map(_is_token, prompt))]
    if len(prompts) not in (len(texts), len(ids)):
        raise ValueError("must be text, a list of token ids, or a list of either kind")
    return (*texts, *ids)


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _as_bias(value: object) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not all(key.isascii() and key.isdecimal() and len(key) < 10 for key in value):
        raise ValueError('must be an object with token ids as names, as in {"42": -100}')
    if not all(_is_number(bias) and abs(bias) <= MAX_BIAS for bias in value.values()):
        raise ValueError(f"must have numbers from {-MAX_BIAS:g} to {MAX_BIAS:g} as values")
    return {int(key): float(bias) for key, bias in value.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_limit(text: str) -> float:
    try:
        limit = float(text)
    except ValueError:
        limit = float("nan")
    if not 0 < limit <= MAX_BUDGET_MS:  # nor NaN
        raise ValueError(f"must be a positive number of milliseconds, at most {MAX_BUDGET_MS:g}")
    return limit


def _as_priority(text: str) -> int:
    try:
        priority = int(text)
    except ValueError:
        priority = MAX_PRIORITY + 1
    if abs(priority) > MAX_PRIORITY:
        raise ValueError(f"must be a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}")
    return priority


def _as_switch(text: str) -> bool:
    switch = text.strip().lower()
    if switch not in ("true", "false", "1", "0"):
        raise ValueError("must be true or false")
    return switch in ("true", "1")


def _as_content(value: object) -> str | tuple[str, ...]:
    """A text, or the texts of OpenAI's list of parts."""
    if isinstance(value, str):
        return _is_text(value)
    if not isinstance(value, list):
        raise ValueError("must be text, or a list of parts of type text")
    if not value or not all(isinstance(part, dict) and part.get("type") in ("text", "refusal") for part in value):
        raise ValueError("must be text, or a list of parts of type text; nothing else can be read")
    if not all(part.keys() - CACHE_HINTS == {"type", part["type"]} for part in value):
        raise ValueError("has a part that is not just a type and a text")
    texts = [part[part["type"]] for part in value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("has a part whose text is no text")
    return tuple(map(_is_text, texts))


def _as_nothing(value: object) -> None:
    if value is not None and value != []:
        raise ValueError("is not supported: leave it out or set it to null")


CACHE_HINTS = {"cache_control", "prompt_cache_breakpoint"}
"""Of Anthropic's clients and of OpenAI's: where a prefix ends that is worth keeping, which every prefix is here."""


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str
    cache_control: Any = None
    prompt_cache_breakpoint: Any = None


class RefusalPart(BaseModel):
    """What an assistant has said instead of an answer: text like other text."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["refusal"]
    refusal: str
    cache_control: Any = None
    prompt_cache_breakpoint: Any = None


MAX_BUDGET_MS = 1e9
"""Eleven days: no client means more, and what is computed from it stays far from a float's end."""
MAX_PRIORITY = 2**53 - 1
"""What every JSON parser keeps as it is."""

Milliseconds = Annotated[float, Field(gt=0, le=MAX_BUDGET_MS)]
Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
Count = Annotated[int, Field(ge=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Repetition = Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=2)]
PlainText = Annotated[str, AfterValidator(_is_text)]
Content = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_as_content, json_schema_input_type=str | Annotated[list[TextPart | RefusalPart], MinLen(1)]),
]
Nothing = Annotated[None, BeforeValidator(_as_nothing, json_schema_input_type=Annotated[list[Any], MaxLen(0)] | None)]
_Filled = Annotated[str, MinLen(1)]
Stops = Annotated[tuple[str, ...], BeforeValidator(_as_stops, json_schema_input_type=_Filled | list[_Filled] | None)]
_Ids = Annotated[list[Annotated[int, Field(ge=0)]], MinLen(1)]
_Texts, _ListOfIds = Annotated[list[str], MinLen(1)], Annotated[list[_Ids], MinLen(1)]
Prompts = Annotated[
    tuple[str | tuple[int, ...], ...],
    BeforeValidator(_as_prompts, json_schema_input_type=_Filled | _Texts | _Ids | _ListOfIds),
]
_TokenName = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
_Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Biases = Annotated[
    dict[int, float] | None, BeforeValidator(_as_bias, json_schema_input_type=dict[_TokenName, _Bias] | None)
]
Variables = Annotated[
    dict[str, Any] | None, BeforeValidator(_as_variables, json_schema_input_type=dict[str, Any] | None)
]
HeaderMilliseconds = Annotated[float | None, BeforeValidator(_as_limit, json_schema_input_type=Milliseconds)]
HeaderPriority = Annotated[int | None, BeforeValidator(_as_priority, json_schema_input_type=Priority)]
HeaderSwitch = Annotated[bool, BeforeValidator(_as_switch, json_schema_input_type=Literal["true", "false"])]
