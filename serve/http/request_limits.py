"""How much one request may ask for. Beyond it the answer is a 4xx that names the field and the limit."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from lts_ray.record import record
from serve.http.api_error import ApiError
from serve.http.request_schemas import ChatRequest, CompletionRequest


@record()
class RequestLimits:
    max_body_bytes: Annotated[int, Ge(1)] = 1 << 20
    """More text than any context holds: to tokenize without a limit would hold up every other client."""
    body_timeout_s: Annotated[float, Gt(0)] = 30.0
    """Seconds from a request's headers to the end of its body."""
    max_prompt_tokens: Annotated[int, Ge(1)] | None = None
    """None: as many as the context has room for."""
    max_n: Annotated[int, Ge(1)] = 16
    """Choices of each prompt."""
    max_stop_sequences: Annotated[int, Ge(0)] = 16
    """This and what follows adds to the work of every token."""
    max_stop_chars: Annotated[int, Ge(1)] = 256
    """Characters of one stop string."""
    max_top_logprobs: Annotated[int, Ge(0)] = 20
    """Most likely tokens that come with each token."""
    max_logit_bias: Annotated[int, Ge(0)] = 1024
    """Tokens with a bias."""

    def check(self, body: CompletionRequest | ChatRequest, *, places: int) -> None:
        """Raises ApiError for the first field that asks for too much.

        places: of the whole queue, where each choice of each prompt takes one.
        """
        prompts = len(body.prompt) if isinstance(body, CompletionRequest) else 1
        if body.choices > self.max_n:
            raise _too_much("n", f"{body.choices}", f"at most {self.max_n} choices of a prompt are served")
        if body.choices * prompts > places:
            asked = f"{body.choices}" if prompts == 1 else f"{body.choices} for each of {prompts} prompts"
            allowed = f"at most {places} choices a request are served, as many as the queue holds"
            raise _too_much("n" if body.choices > 1 else "prompt", asked, allowed)
        if len(body.stop) > self.max_stop_sequences:
            raise _too_much("stop", f"{len(body.stop)} texts", f"at most {self.max_stop_sequences} are allowed")
        longest = max(map(len, body.stop), default=0)
        if longest > self.max_stop_chars:
            raise _too_much("stop", f"a text of {longest} characters", f"at most {self.max_stop_chars} are allowed")
        if (body.alternatives or 0) > self.max_top_logprobs:
            name = "logprobs" if isinstance(body, CompletionRequest) else "top_logprobs"
            raise _too_much(name, f"{body.alternatives}", f"at most {self.max_top_logprobs} tokens a place are listed")
        biased = len(body.logit_bias or ())
        if biased > self.max_logit_bias:
            raise _too_much("logit_bias", f"{biased} tokens", f"at most {self.max_logit_bias} are allowed")

    def check_prompt(self, tokens: int, field: str) -> None:
        if self.max_prompt_tokens is not None and tokens > self.max_prompt_tokens:
            raise _too_much(field, f"{tokens} tokens", f"this server takes prompts of at most {self.max_prompt_tokens}")


DEFAULT_LIMITS = RequestLimits()


def _too_much(param: str, asked: str, allowed: str) -> ApiError:
    return ApiError(f"{param} asks for too much: {allowed}; got {asked[:60]}", param=param, code="limit_exceeded")
