"""The answers of the wire, as the openai package's own types, plus the field `lts`."""

from __future__ import annotations

from time import time
from typing import Any, Protocol

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice as ChatChoice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from pydantic import BaseModel

from serve.service import Generation


class Answers(Protocol):
    """One response's objects. A stream is `first`, a `piece` each, then `last`, which has no text."""

    def whole(self, text: str, generation: Generation) -> BaseModel: ...

    def first(self) -> BaseModel | None: ...

    def piece(self, text: str) -> BaseModel: ...

    def last(self, generation: Generation) -> BaseModel: ...

    def usage(self, generation: Generation) -> BaseModel: ...


class CompletionAnswers:
    def __init__(self, model: str, unique: str) -> None:
        self._common: dict[str, Any] = {
            "id": f"cmpl-{unique}",
            "created": int(time()),
            "model": model,
            "object": "text_completion",
        }

    def whole(self, text: str, generation: Generation) -> BaseModel:
        choice = self._choice(text, generation.finish_reason)
        return Completion(**self._common, choices=[choice], usage=usage(generation), **lts(generation))

    def first(self) -> BaseModel | None:
        return None

    def piece(self, text: str) -> BaseModel:
        return Completion(**self._common, choices=[self._choice(text, None)])

    def last(self, generation: Generation) -> BaseModel:
        return Completion(**self._common, choices=[self._choice("", generation.finish_reason)])

    def usage(self, generation: Generation) -> BaseModel:
        return Completion(**self._common, choices=[], usage=usage(generation))

    def _choice(self, text: str, reason: str | None) -> CompletionChoice:
        # The type has no null reason, which streams need until the last chunk: hence no validation.
        return CompletionChoice.model_construct(index=0, text=text, logprobs=None, finish_reason=reason)


class ChatAnswers:
    def __init__(self, model: str, unique: str) -> None:
        self._common: dict[str, Any] = {"id": f"chatcmpl-{unique}", "created": int(time()), "model": model}

    def whole(self, text: str, generation: Generation) -> BaseModel:
        message = ChatCompletionMessage(role="assistant", content=text)
        choice = ChatChoice(index=0, message=message, logprobs=None, finish_reason=generation.finish_reason)
        return ChatCompletion(
            **self._common, object="chat.completion", choices=[choice], usage=usage(generation), **lts(generation)
        )

    def first(self) -> BaseModel | None:
        return self._chunk(ChoiceDelta(role="assistant", content=""))

    def piece(self, text: str) -> BaseModel:
        return self._chunk(ChoiceDelta(content=text))

    def last(self, generation: Generation) -> BaseModel:
        return self._chunk(ChoiceDelta(), generation.finish_reason)

    def usage(self, generation: Generation) -> BaseModel:
        return ChatCompletionChunk(**self._common, object="chat.completion.chunk", choices=[], usage=usage(generation))

    def _chunk(self, delta: ChoiceDelta, reason: Any = None) -> BaseModel:
        choice = ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=reason)
        return ChatCompletionChunk(**self._common, object="chat.completion.chunk", choices=[choice])


def usage(generation: Generation) -> CompletionUsage:
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    return CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def lts(generation: Generation) -> dict[str, Any]:
    return {"lts": generation.report()}


def to_json(answer: BaseModel, **extra: Any) -> dict[str, Any]:
    """Only what was set: the types have many fields of features that are not offered."""
    return answer.model_dump(mode="json", exclude_unset=True) | extra
