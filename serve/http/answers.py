"""The answers of the wire, in the shapes of the openai package's types, plus the field `lts`.

A whole answer is one of those types. A stream's chunk has the same keys, but is put together as text: all of it but
the new text stays the same from chunk to chunk, and is rendered once.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import time
from typing import Any

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice as ChatChoice
from pydantic import BaseModel

from serve.engine.response import Token
from serve.http.generation import Choices, TextPiece
from serve.http.response_text import Spelling

LEAST_LOGPROB = -9999.0
"""OpenAI's way to say minus infinity, which JSON cannot."""
QUOTE = json.JSONEncoder(separators=(",", ":")).encode
"""What json.dumps does, less its look at the options, which costs more than a short text."""


class Answers(ABC):
    """One request's objects. A stream is, for each choice, `first`, a `piece` each, then `last`, which has no text.

    wants_usage: then, as OpenAI has it, every chunk of a stream has the key, null until the one after the last.
    """

    def __init__(self, common: dict[str, Any], spelling: Spelling, *, chunk: str, wants_usage: bool = False) -> None:
        self._common, self._spelling = common, spelling
        self._head = QUOTE(common | {"object": chunk})[:-1] + ',"choices":['
        self._tail = '],"usage":null}' if wants_usage else "]}"

    @abstractmethod
    def whole(self, pieces: Sequence[Sequence[TextPiece]], choices: Choices) -> dict[str, Any]:
        """pieces: each choice's."""

    @abstractmethod
    def first(self, index: int) -> str | None: ...

    @abstractmethod
    def piece(self, piece: TextPiece) -> str: ...

    @abstractmethod
    def last(self, index: int, reason: str, *, report: dict[str, Any] | None) -> str:
        """report: the `lts` field, in a stream's last chunk."""

    def usage(self, choices: Choices, *, report: dict[str, Any]) -> str:
        told = {"usage": usage(choices).to_dict(), "lts": report}
        return f"{self._head}],{QUOTE(told)[1:]}"

    def _chunk(self, choice: str, extra: dict[str, Any] | None = None) -> str:
        chunk = f"{self._head}{choice}{self._tail}"
        return chunk if extra is None else f"{chunk[:-1]},{QUOTE(extra)[1:]}"


class CompletionAnswers(Answers):
    def __init__(self, model: str, unique: str, spelling: Spelling, *, wants_usage: bool = False) -> None:
        common = {"id": f"cmpl-{unique}", "created": int(time()), "model": model}
        super().__init__(common, spelling, chunk="text_completion", wants_usage=wants_usage)

    def whole(self, pieces: Sequence[Sequence[TextPiece]], choices: Choices) -> dict[str, Any]:
        told = [
            CompletionChoice.model_validate(
                {
                    "index": generation.index,
                    "text": _text(own),
                    "logprobs": self._logprobs(own, asked=generation.request.top_logprobs is not None),
                    "finish_reason": generation.finish_reason,
                }
            )
            for own, generation in zip(pieces, choices.generations, strict=True)
        ]
        whole = Completion(**self._common, object="text_completion", choices=told, usage=usage(choices))
        return to_json(whole, lts=choices.report())

    def first(self, index: int) -> str | None:
        return None

    def piece(self, piece: TextPiece) -> str:
        logprobs = QUOTE(self._logprobs([piece], asked=True)) if piece.tokens else "null"
        return self._chunk(
            f'{{"index":{piece.index},"text":{QUOTE(piece.text)},"logprobs":{logprobs},"finish_reason":null}}',
            _trace(piece),
        )

    def last(self, index: int, reason: str, *, report: dict[str, Any] | None) -> str:
        return self._chunk(
            f'{{"index":{index},"text":"","logprobs":null,"finish_reason":"{reason}"}}',
            None if report is None else {"lts": report},
        )

    def _logprobs(self, pieces: Sequence[TextPiece], *, asked: bool) -> dict[str, Any] | None:
        """The chosen token is always among the told ones, so there may be one more than was asked for."""
        if not asked:
            return None
        name = self._spelling.name_of
        tokens = [token for piece in pieces for token in piece.tokens]
        return {
            "tokens": [name(token.id) for token in tokens],
            "token_logprobs": [_logprob(token) for token in tokens],
            "top_logprobs": [
                {name(each): _finite(logprob) for each, logprob in token.top} | {name(token.id): _logprob(token)}
                for token in tokens
            ],
            "text_offset": [start for piece in pieces for start in piece.starts],
        }


class ChatAnswers(Answers):
    def __init__(self, model: str, unique: str, spelling: Spelling, *, wants_usage: bool = False) -> None:
        common = {"id": f"chatcmpl-{unique}", "created": int(time()), "model": model}
        super().__init__(common, spelling, chunk="chat.completion.chunk", wants_usage=wants_usage)

    def whole(self, pieces: Sequence[Sequence[TextPiece]], choices: Choices) -> dict[str, Any]:
        told = [
            ChatChoice.model_validate(
                {
                    "index": generation.index,
                    "message": ChatCompletionMessage(role="assistant", content=_text(own), refusal=None),
                    "logprobs": self._logprobs(own, asked=generation.request.top_logprobs is not None),
                    "finish_reason": generation.finish_reason,
                }
            )
            for own, generation in zip(pieces, choices.generations, strict=True)
        ]
        whole = ChatCompletion(**self._common, object="chat.completion", choices=told, usage=usage(choices))
        return to_json(whole, lts=choices.report())

    def first(self, index: int) -> str | None:
        delta = '{"role":"assistant","content":"","refusal":null}'
        return self._chunk(f'{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}')

    def piece(self, piece: TextPiece) -> str:
        logprobs = QUOTE(self._logprobs([piece], asked=True)) if piece.tokens else "null"
        delta = f'{{"content":{QUOTE(piece.text)}}}'
        return self._chunk(
            f'{{"index":{piece.index},"delta":{delta},"logprobs":{logprobs},"finish_reason":null}}', _trace(piece)
        )

    def last(self, index: int, reason: str, *, report: dict[str, Any] | None) -> str:
        return self._chunk(
            f'{{"index":{index},"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}',
            None if report is None else {"lts": report},
        )

    def _logprobs(self, pieces: Sequence[TextPiece], *, asked: bool) -> dict[str, Any] | None:
        if not asked:
            return None
        content = [
            self._spelled(token.id, _logprob(token))
            | {"top_logprobs": [self._spelled(each, _finite(logprob)) for each, logprob in token.top]}
            for piece in pieces
            for token in piece.tokens
        ]
        return {"content": content, "refusal": None}

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        spelled = self._spelling.bytes_of(token)
        return {"token": self._spelling.text_of(token), "bytes": list(spelled), "logprob": logprob}


def usage(choices: Choices) -> CompletionUsage:
    prompt, completion = choices.prompt_tokens, choices.completion_tokens
    return CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def to_json(answer: BaseModel, **extra: Any) -> dict[str, Any]:
    """Only what was set: the types have many fields of features that are not offered."""
    return answer.model_dump(mode="json", exclude_unset=True) | extra


def _text(pieces: Sequence[TextPiece]) -> str:
    return "".join(piece.text for piece in pieces)


def _trace(piece: TextPiece) -> dict[str, Any] | None:
    return None if piece.trace is None else {"lts": piece.trace.to_json()}


def _logprob(token: Token) -> float:
    return LEAST_LOGPROB if token.logprob is None else _finite(token.logprob)


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB  # NaN too, which JSON cannot say either
