"""A stream of server-sent events. However it ends, the engine's rows are freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve.engine.engine_errors import EngineFailedError
from serve.http.answers import QUOTE, Answers
from serve.http.api_error import as_api_error, server_failure
from serve.http.generation import Choices

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""The second keeps nginx from gathering what is to be seen as it comes."""
DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends as fast as the client reads; ends as soon as it has left, whether or not there is anything to send."""

    media_type = "text/event-stream"

    def __init__(self, choices: Choices, answers: Answers, *, wants_usage: bool, running_usage: bool = False) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]  # of a body that is not known yet
        self._choices = choices
        self._events = events(choices, answers, wants_usage=wants_usage, running_usage=running_usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await done_before_client_left(self._write(send), receive)
        except OSError:
            pass  # what some servers raise for a client that has left
        finally:
            self._choices.cancel()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def done_before_client_left(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Run `work`, but not on without a client. The request's body must have been read."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_until_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        working.cancel()
        leaving.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def events(
    choices: Choices, answers: Answers, *, wants_usage: bool, running_usage: bool = False
) -> AsyncIterator[bytes]:
    """`lts` is in the last chunk, the one with the usage if that was asked for.

    running_usage: each chunk has its choice's usage so far.
    """

    def usage(index: int, taken: int) -> tuple[int, int] | None:
        return (len(choices.generations[index].request.prompt), taken) if running_usage else None

    try:
        for generation in choices.generations:
            if (first := answers.first(generation.index, usage=usage(generation.index, 0))) is not None:
                yield _event(first)
        left = len(choices.generations)
        async for piece in choices:
            if piece.text or piece.tokens or piece.trace:
                yield _event(answers.piece(piece, usage=usage(piece.index, piece.taken)))
            if piece.ended:
                left -= 1
                report = choices.report() if not left and not wants_usage else None
                reason = choices.generations[piece.index].finish_reason
                now = usage(piece.index, piece.taken)
                yield _event(answers.last(piece.index, reason, report=report, usage=now))
        if wants_usage:
            yield _event(answers.usage(choices))
    # The status line is gone: an error can only be an event.
    except EngineFailedError as error:
        yield _event(QUOTE(as_api_error(error).body()))
    except Exception:
        choices.fail()
        yield _event(QUOTE(server_failure().body()))
    yield DONE


def _event(chunk: str) -> bytes:
    return f"data: {chunk}\n\n".encode()
