"""How much one request may ask for. Beyond it the answer is a 4xx that names the field and the limit."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lts_ray.errors import LtsRayError
from serve.http.api_error import ApiError
from serve.http.request_schemas import ChatRequest, CompletionRequest


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """max_body_bytes: more text than any context holds; tokenizing without a bound would hold up every other client.

    max_prompt_tokens: None for as many as the context has room for. max_n: choices of one request, all prompts taken
    together: each is a place in the queue. The others bound what a request adds to the work of every token.
    """

    max_body_bytes: int = 1 << 20
    max_prompt_tokens: int | None = None
    max_n: int = 16
    max_stop_sequences: int = 16
    max_stop_chars: int = 256
    max_top_logprobs: int = 20
    max_logit_bias: int = 1024

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            least = 0 if each.name in ("max_top_logprobs", "max_logit_bias", "max_stop_sequences") else 1
            if value is not None and value < least:
                raise LtsRayError(f"{each.name} must be at least {least}; got {value}")

    def check(self, body: CompletionRequest | ChatRequest) -> None:
        """Raises ApiError for the first field that asks for too much."""
        prompts = len(body.prompt) if isinstance(body, CompletionRequest) else 1
        if body.choices * prompts > self.max_n:
            asked = f"{body.choices}" if prompts == 1 else f"{body.choices} for each of {prompts} prompts"
            raise _too_much(
                "n" if body.choices > 1 else "prompt", asked, f"at most {self.max_n} choices a request are served"
            )
        if len(body.stop) > self.max_stop_sequences:
            raise _too_much("stop", f"{len(body.stop)} texts", f"at most {self.max_stop_sequences} are allowed")
        longest = max(map(len, body.stop), default=0)
        if longest > self.max_stop_chars:
            raise _too_much("stop", f"a text of {longest} characters", f"at most {self.max_stop_chars} are allowed")
        if (body.alternatives or 0) > self.max_top_logprobs:
            name = "logprobs" if isinstance(body, CompletionRequest) else "top_logprobs"
            raise _too_much(name, f"{body.alternatives}", f"at most {self.max_top_logprobs} tokens a place are told")
        biased = len(body.logit_bias or ())
        if biased > self.max_logit_bias:
            raise _too_much("logit_bias", f"{biased} tokens", f"at most {self.max_logit_bias} are allowed")

    def check_prompt(self, tokens: int, field: str) -> None:
        if self.max_prompt_tokens is not None and tokens > self.max_prompt_tokens:
            raise _too_much(field, f"{tokens} tokens", f"this server takes prompts of at most {self.max_prompt_tokens}")


DEFAULT_LIMITS = RequestLimits()


def _too_much(param: str, asked: str, allowed: str) -> ApiError:
    return ApiError(f"{param} asks for too much: {allowed}; got {asked[:60]}", param=param, code="limit_exceeded")
