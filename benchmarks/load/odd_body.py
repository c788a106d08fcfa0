"""Bodies of completions and chats: good ones, and what bugs of clients make of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from serve.http.request_schemas import ChatRequest, CompletionRequest
from serve.http.unused_fields import NEUTRAL

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
FIELDS = {
    COMPLETIONS: sorted({*CompletionRequest.model_fields, *NEUTRAL}),
    CHAT: sorted({*ChatRequest.model_fields, *NEUTRAL}),
}
TEXTS = (
    "",
    " ",
    "the nation",
    "\0",
    "é" * 50,
    "\ud800",
    "\U0001f600\u200d",
    "a" * 20_000,
    "</s><s>",
    "{{ 7 * 7 }}",
    "nan",
)
NUMBERS = (0, 1, 2, -1, 0.5, 1e-9, 1e308, -1e308, 2**31, 2**63, 2**64, 10**40, -(2**63), float("nan"), float("inf"))
ALLOWED: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 0.7, 2),
    "top_p": (0, 0.5, 1),
    "top_k": (-1, 1, 50),
    "n": (1, 3),
    "seed": (7, -(2**63), 2**64 - 1),
    "stop": ("a", ["the", ". "], [" "] * 16, ["ab" * 128] * 16),
    "logit_bias": ({"5": 100}, {str(token): -100 for token in range(300)}),
    "logprobs": (1, True, 5),
    "top_logprobs": (2, 20),
    "min_tokens": (1, 8),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0.01, 1.3),
    "ignore_eos": (True,),
    "stream_options": ({"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}),
    "latency_budget_ms": (0.001, 50, 1e6),
    "metadata": ({"a": "b"},),
    "user": ("someone",),
}
"""Values that are served, of fields that change what is to be done."""


def _value(rng: Random, depth: int = 0) -> Any:
    """Of any type, as a client with a bug may send it."""
    draw = rng.random()
    if draw < 0.3:
        return rng.choice(NUMBERS)
    if draw < 0.6:
        return rng.choice(TEXTS)
    if draw < 0.75 or depth > 2:
        return rng.choice((None, True, False))
    if draw < 0.9:
        return [_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 5, 300 if depth == 0 else 3)))]
    return {str(rng.choice(TEXTS))[:20]: _value(rng, depth + 1) for _ in range(rng.randrange(4))}


def good_fields(rng: Random, models: Sequence[str], path: str) -> dict[str, Any]:
    """A request that is served, with little to do."""
    fields: dict[str, Any] = {
        "model": rng.choice(models),
        "max_tokens": rng.randint(1, 8),
        "stream": rng.random() < 0.4,
    }
    if path == CHAT:
        fields["messages"] = [{"role": "user", "content": rng.choice(TEXTS[:5])}]
    else:
        fields["prompt"] = rng.choice((*TEXTS[1:5], ["a", "b"], [1, 2, 3]))
    return fields


def odd_body(rng: Random, models: Sequence[str], path: str) -> bytes:
    fields = good_fields(rng, models, path)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        if rng.random() < 0.6:
            name = rng.choice(tuple(ALLOWED))
            fields[name] = rng.choice(ALLOWED[name])
        else:
            fields[rng.choice(FIELDS[path]) if rng.random() < 0.95 else rng.choice(TEXTS)] = _value(rng)
    if rng.random() < 0.1 and fields:
        del fields[rng.choice(sorted(fields))]
    if fields.get("max_tokens") is None and fields.get("max_completion_tokens") is None:
        fields["max_tokens"] = 8  # a chat's default of 256 is no hang where the machine is slow
    body = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    draw = rng.random()
    if draw < 0.08:
        place = rng.randrange(len(body))
        return body[:place] + rng.randbytes(rng.randrange(3)) + body[place + rng.randrange(3) :]
    if draw < 0.16:
        odd = (b"", b"null", b"[" * 100_000, b"\xef\xbb\xbf" + body, body[:-1], body * 2, b" " * 2_000_000, body[1:])
        return rng.choice((*odd, json.dumps(fields).encode("utf-16")))
    return body
