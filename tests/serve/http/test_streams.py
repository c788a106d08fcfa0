"""Streams over responses that the test itself fills: what came at once, what was held back, who left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from lts_ray.text.tokenizer import Tokenizer, load_tokenizer
from serve.engine.response import Admitted, Ended, Event, Response, ResponseFailed, Token
from serve.http.answers import Answers, ChatAnswers, CompletionAnswers
from serve.http.event_stream import EventStream, events
from serve.http.generation import Choices, Generation, TextPiece
from serve.http.response_schemas import ChunkTrace
from serve.http.response_text import ResponseText
from serve.policies.budget import Budget, Timing
from serve.policies.expectation import Expectation
from serve.policies.request import Request

TIMING = Timing(ttft_ms=1.0, tpot_ms=2.0, e2e_ms=3.0)


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Tokenizer:
    return load_tokenizer(model_dir)


class Book:
    """Which choices were cancelled, and why at first."""

    def __init__(self) -> None:
        self.cancelled: dict[int, str] = {}


def make(
    tokenizer: Tokenizer,
    sent: Sequence[Sequence[Event]],
    *,
    stop: str | None = None,
    traced: bool = False,
    logprobs: int | None = None,
    budget: Budget | None = None,
    book: Book | None = None,
) -> tuple[Choices, list[Response]]:
    """A choice for each list of events, all of which have come already. To be called in an event loop."""
    book = Book() if book is None else book
    generations, responses = [], []
    for index, own in enumerate(sent):
        cancel = partial(book.cancelled.setdefault, index)
        response = Response(arrived_s=10.0, cancel=cancel)
        for event in own:
            response.receive(event)
        request = Request(prompt=(1, 2), max_tokens=99, top_logprobs=logprobs, budget=budget or Budget())
        text = ResponseText(tokenizer, [stop] if stop else ())
        generations.append(Generation(response, request, text, index=index, traced=traced))
        responses.append(response)
    return Choices(generations=tuple(generations), prompt_tokens=2), responses


def tokens(tokenizer: Tokenizer, text: str, submodel: str = "XL") -> list[Token]:
    """One every 100 ms, from 100 ms after the arrival on."""
    ids = tokenizer.encode(text)
    return [Token(id, submodel, 10.0 + 0.1 * place, -0.5, ((id, -0.5),)) for place, id in enumerate(ids, 1)]


def admitted(submodel: str = "XL") -> Admitted:
    expected = Expectation(forecast=TIMING, waited_ms=0.0, likely=TIMING, low=TIMING, high=TIMING)
    return Admitted(submodel, expected, 10.0)


def run(body: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(body(), 600))


def collect(tokenizer: Tokenizer, sent: Sequence[Sequence[Event]], **options: Any) -> tuple[list[TextPiece], Choices]:
    async def body() -> tuple[list[TextPiece], Choices]:
        choices, _ = make(tokenizer, sent, **options)
        return [piece async for piece in choices], choices

    return run(body)


def chunks_of(tokenizer: Tokenizer, sent: Sequence[Sequence[Event]], shape: type[Answers], **options: Any) -> list[Any]:
    usage = options.pop("usage", False)

    async def body() -> list[bytes]:
        choices, _ = make(tokenizer, sent, **options)
        answers = shape("tiny", "abc", tokenizer.spelling, wants_usage=usage)  # type: ignore[call-arg, arg-type]
        return [event async for event in events(choices, answers, wants_usage=usage)]

    found = [event.decode().removeprefix("data: ").removesuffix("\n\n") for event in run(body)]
    assert found.pop() == "[DONE]"
    return [json.loads(each) for each in found]


def test_a_reader_that_was_busy_gets_all_that_has_come_in_one_piece(tokenizer: Tokenizer) -> None:
    pieces, _ = collect(tokenizer, [[admitted(), *tokens(tokenizer, "the nation of"), Ended("length", 11.0)]])
    assert [(piece.text, piece.ended) for piece in pieces] == [("the nation of", False), ("", True)]


def test_pieces_of_several_choices_gather_while_the_reader_is_busy(tokenizer: Tokenizer) -> None:
    """Between two reads ten tokens a choice come; nobody may have taken them one by one meanwhile."""
    words = tokens(tokenizer, "the nation of the people and the law")

    async def body() -> list[TextPiece]:
        choices, responses = make(tokenizer, [[admitted()], [admitted()]])
        pieces = []
        for response in responses:
            response.receive(words[0])
        stream = aiter(choices)
        pieces.append(await anext(stream))
        for response in responses:
            for word in words[1:]:
                response.receive(word)
                await asyncio.sleep(0)  # whoever wants to take it may
            response.receive(Ended("stop", 11.0))
        return pieces + [piece async for piece in stream]

    pieces = run(body)
    for index in (0, 1):
        own = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in own) == tokenizer.decode([word.id for word in words])
        assert len(own) <= 4
        assert [piece.ended for piece in own] == [False] * (len(own) - 1) + [True]


def test_tokens_that_came_together_with_a_stop_string_do_not_count(tokenizer: Tokenizer) -> None:
    """The engine was ahead of the reader; the answer is what it would have been, had it not been."""
    first, rest = tokens(tokenizer, "the war and"), tokens(tokenizer, " peace of law", "S")
    book, options = Book(), {"stop": " and", "budget": Budget(e2e_ms=1e3 * (first[-1].at_s - 10) + 1)}
    pieces, choices = collect(tokenizer, [[admitted(), *first, *rest, Ended("length", 99.0)]], book=book, **options)
    assert "".join(piece.text for piece in pieces) == "the war"
    assert choices.completion_tokens == len(first)
    report = choices.report()
    assert report.tokens == {"XL": len(first)}
    assert report.measured_ms["e2e"] == pytest.approx(100 * len(first))
    assert report.budget_met is True
    assert choices.generations[0].finish_reason == "stop"
    assert book.cancelled == {0: "stop"}


def test_a_traced_piece_has_the_tokens_of_one_submodel(tokenizer: Tokenizer) -> None:
    wide, narrow = tokens(tokenizer, "the nation"), tokens(tokenizer, " of the people", "S")
    pieces, _ = collect(tokenizer, [[admitted(), *wide, *narrow, Ended("stop", 11.0)]], traced=True)
    assert [(piece.text, piece.trace) for piece in pieces] == [
        ("the nation", ChunkTrace(submodel="XL", tokens=len(wide), at_ms=100 * len(wide))),
        (" of the people", ChunkTrace(submodel="S", tokens=len(narrow), at_ms=100 * len(narrow))),
        ("", None),
    ]


def test_text_that_comes_out_at_the_end_is_traced_to_who_wrote_it_and_its_tokens_counted_once(
    tokenizer: Tokenizer,
) -> None:
    """Half a character, of which no more comes."""
    half = tokens(tokenizer, "漢", "S")[:1]
    pieces, _ = collect(tokenizer, [[admitted(), *half, Ended("length", 11.0)]], traced=True)
    assert [piece.text for piece in pieces] == ["", "\ufffd"]
    assert [piece.trace and (piece.trace.submodel, piece.trace.tokens) for piece in pieces] == [("S", 1), ("S", 0)]


def test_a_trace_counts_tokens_whose_text_is_held_back(tokenizer: Tokenizer) -> None:
    """Half a character: no text yet, and a token all the same."""
    half = tokens(tokenizer, "漢")

    async def body() -> list[TextPiece]:
        choices, (response,) = make(tokenizer, [[admitted(), half[0]]], traced=True)
        stream = aiter(choices)
        pieces = [await anext(stream)]
        for token in half[1:]:
            response.receive(token)
        response.receive(Ended("stop", 11.0))
        return pieces + [piece async for piece in stream]

    pieces = run(body)
    assert [piece.text for piece in pieces] == ["", "漢", ""]
    assert sum(piece.trace.tokens for piece in pieces if piece.trace) == len(half)


@pytest.mark.parametrize("shape", [CompletionAnswers, ChatAnswers])
@pytest.mark.parametrize("options", [{}, {"usage": True}, {"logprobs": 2}, {"traced": True}], ids=str)
def test_every_chunk_is_what_the_official_client_reads(
    tokenizer: Tokenizer, shape: type[Answers], options: dict[str, Any]
) -> None:
    """Chunks are put together as text, so that the types themselves must take them; awkward text included."""
    text = 'the "law"\\ \n\u2028 漢字 </script> \x00'
    sent = [[admitted(), *tokens(tokenizer, text), Ended("stop", 11.0)]] * 2
    chunks = chunks_of(tokenizer, sent, shape, **options)
    read = ""
    for chunk in chunks:
        if shape is ChatAnswers:
            kind = ChatCompletionChunk.model_validate(chunk)
            read += "".join(choice.delta.content or "" for choice in kind.choices)
        else:
            for choice in chunk["choices"]:
                choice["finish_reason"] = (
                    choice["finish_reason"] or "stop"
                )  # the type, made for whole answers, has no null
            read += "".join(choice.text for choice in Completion.model_validate(chunk).choices)
        assert chunk.keys() - {"lts", "usage"} == {"id", "object", "created", "model", "choices"}
    assert read == text * 2


def test_log_probabilities_come_with_the_text_that_they_are_of(tokenizer: Tokenizer) -> None:
    """ " and" might become the stop string, so neither its text nor its tokens come before that is clear."""
    words = tokens(tokenizer, "the war and law")

    async def body() -> list[TextPiece]:
        choices, (response,) = make(tokenizer, [[admitted()]], stop=" and peace", logprobs=0)
        stream, pieces = aiter(choices), []
        for word in words:
            response.receive(word)
            response.receive(admitted())  # parts what would else be gathered
        response.receive(Ended("stop", 11.0))
        pieces += [piece async for piece in stream]
        return pieces

    pieces = run(body)
    assert [token for piece in pieces for token in piece.tokens] == words
    at = 0
    for piece in pieces:
        assert "".join(tokenizer.decode([token.id]) for token in piece.tokens) == piece.text
        assert piece.starts[:1] == ((at,) if piece.tokens else ())
        at += len(piece.text)


def test_a_failed_step_is_an_event_and_frees_the_other_choices(tokenizer: Tokenizer) -> None:
    book = Book()
    sent: list[list[Event]] = [
        [admitted(), *tokens(tokenizer, "the law")],
        [admitted(), ResponseFailed("the step failed: boom")],
    ]

    async def body() -> list[dict[str, Any]]:
        choices, _ = make(tokenizer, sent, book=book)
        response = EventStream(choices, CompletionAnswers("tiny", "abc", tokenizer.spelling), wants_usage=False)
        messages: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            messages.append(message)

        async def receive() -> Any:
            await asyncio.Event().wait()

        await response({"type": "http"}, receive, send)
        return messages

    messages = run(body)
    assert messages[0]["status"] == 200
    last, done = messages[-3]["body"], messages[-2]["body"]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_failed"
    assert done == b"data: [DONE]\n\n"
    assert messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert book.cancelled == {0: "cancelled", 1: "cancelled"}


def test_what_fails_while_a_stream_is_written_is_an_event_in_openais_shape(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Or a client would take the text that it has for the whole."""
    sent = [[admitted(), *tokens(tokenizer, "the"), Ended("length", 11.0)]]
    for owner, name in ((ResponseText, "push"), (ResponseText, "finish"), (ChatAnswers, "piece"), (Choices, "report")):
        with monkeypatch.context() as broken:
            broken.setattr(owner, name, Mock(side_effect=ZeroDivisionError("boom")))
            *_, last = chunks_of(tokenizer, sent, ChatAnswers)
        assert last["error"]["type"] == "server_error"
        assert "see its log" in last["error"]["message"]
        assert "boom" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("sent", [0, 1], ids=["before the first token", "in the middle"])
def test_a_client_that_leaves_frees_all_choices_at_once(tokenizer: Tokenizer, sent: int) -> None:
    """Although nothing is being sent that could fail: the next token may be long in coming."""
    book = Book()

    async def body() -> None:
        choices, _ = make(tokenizer, [[admitted(), *tokens(tokenizer, "law")][: 1 + sent]] * 3, book=book)
        response = EventStream(choices, ChatAnswers("tiny", "abc", tokenizer.spelling), wants_usage=False)

        async def send(message: Any) -> None: ...

        async def receive() -> Any:
            await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        await response({"type": "http"}, receive, send)

    run(body)
    assert book.cancelled == dict.fromkeys(range(3), "cancelled")


def test_a_socket_that_breaks_while_it_is_written_to_is_a_client_that_left(tokenizer: Tokenizer) -> None:
    book = Book()

    async def body() -> None:
        choices, _ = make(tokenizer, [[admitted(), *tokens(tokenizer, "law")]], book=book)
        response = EventStream(choices, ChatAnswers("tiny", "abc", tokenizer.spelling), wants_usage=False)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                raise OSError("broken pipe")

        async def receive() -> Any:
            await asyncio.Event().wait()

        await response({"type": "http"}, receive, send)

    run(body)
    assert book.cancelled == {0: "cancelled"}
