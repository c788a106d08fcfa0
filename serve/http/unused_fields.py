"""What clients of OpenAI's and vLLM's APIs send besides what is offered here: taken where it changes no answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from serve.http.api_error import ApiError

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "cache_salt": (),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include_reasoning": (True, False),
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields that are not offered, and the values, besides null, that ask for nothing."""


class UnusedFields(BaseModel):
    """Labels, and hints to caches, billing and speed: any value is taken, and none changes an answer."""

    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    session_id: str | None = None
    store: bool | None = None
    user: str | None = None


def document_neutral(schema: dict[str, Any]) -> None:
    for name, neutral in NEUTRAL.items():
        schema["properties"].setdefault(name, {"enum": [*neutral, None], "description": "Not supported: leave it out."})


def without_neutral(fields: Mapping[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """A body's fields less those that `kind` has not and that ask for nothing. Raises ApiError for one that does."""
    return {name: value for name, value in fields.items() if name in kind.model_fields or not _is_neutral(name, value)}


def _is_neutral(name: str, value: object) -> bool:
    if name not in NEUTRAL:
        return False  # an unknown name is no matter of values
    neutral = (*NEUTRAL[name], None)
    if any(_same(value, allowed) for allowed in neutral):
        return True
    allowed = " or ".join(map(json.dumps, neutral))
    raise ApiError(
        f"{name} is not supported: leave it out or set it to {allowed}", param=name, code="unsupported_value"
    )


def _same(value: object, neutral: object) -> bool:
    """Equal, and of one JSON type: true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
