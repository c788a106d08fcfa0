"""What a request that generates is answered with: one whole response, or the chunks of a stream.

A whole response is built as its type. A chunk has the shape of its type too (see response_schemas), but is put together
as text: all of it but the new text stays the same from chunk to chunk, and is rendered once.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import time
from typing import Any, ClassVar

from openai.types import CompletionUsage

from lts_ray.text.spelling import Spelling
from serve.engine.response import Token
from serve.http.generation import Choices, TextPiece
from serve.http.response_schemas import ChatResponse, ChunkTrace, CompletionResponse, Report, ReportPerChoice

ALTERNATIVE = 60
"""Characters of a token and its log probability, as they are written."""
LEAST_LOGPROB = -9999.0
"""OpenAI's way to say minus infinity, which JSON cannot."""
QUOTE = json.JSONEncoder(separators=(",", ":")).encode
"""What json.dumps does, less its look at the options, which costs more than a short text."""

Tokens = tuple[int, int]
"""Of a prompt, and of what followed it."""


class Answers(ABC):
    """A stream is, for each choice, `first`, a `piece` for each that comes, then `last`, which has no text.

    wants_usage: then, as OpenAI has it, every chunk of a stream has the key, null until the one after the last.
    usage: of the choice so far, tokens of its prompt and of its text, for a chunk that is to have it.
    """

    response: ClassVar[type[CompletionResponse | ChatResponse]]
    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str, unique: str, spelling: Spelling, *, wants_usage: bool = False) -> None:
        self._common = {"id": f"{self.id_prefix}-{unique}", "created": int(time()), "model": model}
        self._spelling = spelling
        self._head = QUOTE(self._common | {"object": self.chunk_object})[:-1] + ',"choices":['
        self._tail = '],"usage":null}' if wants_usage else "]}"

    def characters(self, choices: Choices) -> int:
        """About as many as the whole answer has."""
        alternatives = choices.generations[0].request.top_logprobs
        return choices.completion_tokens * (1 if alternatives is None else ALTERNATIVE * (1 + alternatives))

    def whole(self, pieces: Sequence[Sequence[TextPiece]], choices: Choices) -> dict[str, Any]:
        """pieces: of each choice."""
        texts = [
            {
                "index": generation.index,
                **self._whole_text("".join(piece.text for piece in own)),
                "logprobs": None if generation.request.top_logprobs is None else self._logprobs(own),
                "finish_reason": generation.finish_reason,
            }
            for own, generation in zip(pieces, choices.generations, strict=True)
        ]
        usage = _usage(choices.prompt_tokens, choices.completion_tokens)
        counted = {"usage": usage, "lts": choices.report()}
        whole = self.response.model_validate(self._common | {"object": self.whole_object, "choices": texts} | counted)
        return whole.model_dump(mode="json", exclude_unset=True)  # the types have many fields that are not offered

    def first(self, index: int, *, usage: Tokens | None = None) -> str | None:
        """None where a stream of this kind begins with its text."""
        return None

    def piece(self, piece: TextPiece, *, usage: Tokens | None = None) -> str:
        logprobs = QUOTE(self._logprobs([piece])) if piece.tokens else "null"
        return self._chunk(piece.index, self._new_text(piece.text), logprobs=logprobs, lts=piece.trace, usage=usage)

    def last(
        self, index: int, reason: str, *, report: Report | ReportPerChoice | None, usage: Tokens | None = None
    ) -> str:
        """report: in a stream's last chunk."""
        return self._chunk(index, self._new_text(None), reason=f'"{reason}"', lts=report, usage=usage)

    def usage(self, choices: Choices) -> str:
        usage = _usage(choices.prompt_tokens, choices.completion_tokens)
        return f'{self._head}],"usage":{QUOTE(usage.to_dict())},"lts":{_lts(choices.report())}}}'

    def _chunk(
        self,
        index: int,
        text: str,
        *,
        logprobs: str = "null",
        reason: str = "null",
        lts: Report | ReportPerChoice | ChunkTrace | None = None,
        usage: Tokens | None = None,
    ) -> str:
        choice = f'{{"index":{index},{text},"logprobs":{logprobs},"finish_reason":{reason}}}'
        tail = self._tail if usage is None else f'],"usage":{QUOTE(_usage(*usage).to_dict())}}}'
        chunk = f"{self._head}{choice}{tail}"
        return chunk if lts is None else f'{chunk[:-1]},"lts":{_lts(lts)}}}'

    @abstractmethod
    def _whole_text(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def _new_text(self, text: str | None) -> str:
        """A chunk's text, as a member of a JSON object. None: the chunk has none."""

    @abstractmethod
    def _logprobs(self, pieces: Sequence[TextPiece]) -> dict[str, Any]: ...


class CompletionAnswers(Answers):
    response = CompletionResponse
    id_prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _whole_text(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _new_text(self, text: str | None) -> str:
        return f'"text":{QUOTE(text or "")}'

    def _logprobs(self, pieces: Sequence[TextPiece]) -> dict[str, Any]:
        """The chosen token is always listed, so there may be one more than was asked for."""
        name = self._spelling.name_of
        tokens = [token for piece in pieces for token in piece.tokens]
        return {
            "tokens": [name(token.id) for token in tokens],
            "token_logprobs": [_logprob(token) for token in tokens],
            "top_logprobs": [
                {name(other): _finite(logprob) for other, logprob in token.top} | {name(token.id): _logprob(token)}
                for token in tokens
            ],
            "text_offset": [start for piece in pieces for start in piece.starts],
        }


class ChatAnswers(Answers):
    response = ChatResponse
    id_prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first(self, index: int, *, usage: Tokens | None = None) -> str | None:
        return self._chunk(index, '"delta":{"role":"assistant","content":"","refusal":null}', usage=usage)

    def _whole_text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _new_text(self, text: str | None) -> str:
        return '"delta":{}' if text is None else f'"delta":{{"content":{QUOTE(text)}}}'

    def _logprobs(self, pieces: Sequence[TextPiece]) -> dict[str, Any]:
        content = [
            self._spelled(token.id, _logprob(token))
            | {"top_logprobs": [self._spelled(other, _finite(logprob)) for other, logprob in token.top]}
            for piece in pieces
            for token in piece.tokens
        ]
        return {"content": content, "refusal": None}

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        spelled = self._spelling.bytes_of(token)
        return {"token": self._spelling.text_of(token), "bytes": list(spelled), "logprob": logprob}


def _usage(prompt: int, completion: int) -> CompletionUsage:
    return CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _lts(value: Report | ReportPerChoice | ChunkTrace) -> str:
    return QUOTE(value.model_dump(exclude_unset=True))


def _logprob(token: Token) -> float:
    return LEAST_LOGPROB if token.logprob is None else _finite(token.logprob)


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB  # NaN too, which JSON cannot say either
