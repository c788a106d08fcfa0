"""One request's tokens on their way from the engine's thread to the event loop that waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from serve.engine.engine_errors import EngineFailedError
from serve.policies.budget import Timing
from serve.policies.expectation import Expectation

FinishReason = Literal["stop", "length", "cancelled", "moved"]
LeaveReason = Literal["stop", "cancelled", "failed", "moved"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """Its first step began."""

    submodel: str
    predicted: Expectation
    """What it was then expected to take from its arrival on, the wait included."""
    at_s: float


@dataclass(slots=True)
class Token:
    """Not to be changed; frozen it would take several times as long to make."""

    id: int
    submodel: str
    at_s: float
    logprob: float | None = None
    """The model's own of this token, where it was asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with their log probabilities, as many as were asked for."""


@dataclass(frozen=True, slots=True)
class Ended:
    reason: FinishReason
    at_s: float


@dataclass(frozen=True, slots=True)
class ResponseFailed:
    message: str


@dataclass(frozen=True, slots=True)
class Placed:
    """It went to a replica of a fleet: at first, and again each time that one was lost and another goes on with it."""

    kind: str
    """Of node, as the fleet's file calls it."""
    replica: str


Event = Placed | Admitted | Token | Ended | ResponseFailed


@dataclass(kw_only=True)
class Progress:
    """What has happened to a request so far. Moments are by the engine's clock."""

    arrived_s: float
    before: int = 0
    """Tokens that another engine has made: this one goes on from there."""
    submodel: str | None = None
    """Chosen at admission."""
    predicted: Expectation | None = None
    submodels: Counter[str] = field(default_factory=Counter)
    """Tokens by the submodel that made them, here."""
    admitted_s: float | None = None
    """When its first step began."""
    first_s: float | None = None
    """When the first token came, here or there."""
    last_s: float | None = None
    ended_s: float | None = None
    places: tuple[Placed, ...] = ()
    """Where it went, one after the other; none where there is no fleet."""

    def note(self, event: Placed | Admitted | Token | Ended) -> None:
        match event:
            case Token():
                self.submodels[event.submodel] += 1
                if self.first_s is None:
                    self.first_s = event.at_s
                self.last_s = event.at_s
            case Admitted():
                self.submodel, self.predicted, self.admitted_s = event.submodel, event.predicted, event.at_s
            case Ended():
                self.ended_s = event.at_s
            case Placed():
                self.places += (event,)

    @property
    def tokens(self) -> int:
        return self.submodels.total()

    def measured(self) -> Timing | None:
        """None before anything came. The step that ends a response without a token counts for e2e only."""
        end_s = self.last_s if self.ended_s is None else self.ended_s
        if end_s is None:
            return None
        first_s = end_s if self.first_s is None else self.first_s
        last_s = end_s if self.last_s is None else self.last_s
        return Timing(
            ttft_ms=(first_s - self.arrived_s) * 1e3,
            tpot_ms=(last_s - first_s) / max(1, self.before + self.tokens - 1) * 1e3,
            e2e_ms=(end_s - self.arrived_s) * 1e3,
        )


class Response:
    """Iterate for the tokens, all that have come at a time; afterwards finish_reason and progress say how it went.

    progress follows what the reader takes. Everything belongs to the event loop that made the response.
    """

    def __init__(self, *, arrived_s: float, cancel: Callable[[LeaveReason], None], whole: bool = False) -> None:
        """whole: the reader wants all tokens together, and is not woken before the last one."""
        self.progress, self.whole = Progress(arrived_s=arrived_s), whole
        self.finish_reason: FinishReason | None = None
        self.loop = asyncio.get_running_loop()
        self._cancel, self._failed = cancel, False
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self.forward: Callable[[Event], None] | None = None
        """Takes each event in place of a reader: it goes on to another process."""

    def receive(self, event: Event) -> None:
        if self.forward is not None:
            self.forward(event)
            return
        self._events.append(event)
        if not self.whole or isinstance(event, Ended | ResponseFailed):
            self._news.set()

    def cancel(self, reason: LeaveReason = "cancelled") -> None:
        """Free the request's place at the next step boundary. No effect on a response that has ended.

        reason: "stop" where its reader has all that was asked for, because a stop string came. "failed" where what came
        could not be made an answer: that is counted, once, even if the response has ended. "moved" where another engine
        goes on with it: that one counts its end.
        """
        if self._failed or (self.finish_reason is not None and reason != "failed"):
            return
        self._failed = reason == "failed"
        self._cancel(reason)

    async def __aiter__(self) -> AsyncIterator[tuple[Token, ...]]:
        """Never an empty tuple. Raises EngineFailedError when a step with this request failed."""
        while True:
            while not self._events:
                self._news.clear()
                await self._news.wait()
            if tokens := self._tokens():
                yield tokens
                continue
            match self._events.popleft():
                case ResponseFailed(message):
                    raise EngineFailedError(message)
                case Ended() as event:
                    self.progress.note(event)
                    self.finish_reason = event.reason
                    return
                case event:
                    self.progress.note(event)

    def _tokens(self) -> tuple[Token, ...]:
        """Take those that come before anything else."""
        tokens: list[Token] = []
        while self._events and isinstance(self._events[0], Token):
            token = self._events.popleft()
            assert isinstance(token, Token)
            self.progress.note(token)
            tokens.append(token)
        return tuple(tokens)


STREAM_S = 0.004
"""The tokens of streams go out together where steps are shorter: to wake an event loop costs more than a short step."""


class Outbox:
    """What steps have for all responses, handed over with one call to each event loop. For one thread.

    First tokens and ends go out at once, other tokens of streams a few milliseconds later at most.
    """

    def __init__(self) -> None:
        self._mail: dict[asyncio.AbstractEventLoop, list[tuple[Response, Event]]] = {}
        self._urgent: set[asyncio.AbstractEventLoop] = set()
        self._streams: set[asyncio.AbstractEventLoop] = set()
        self._sent_s: dict[asyncio.AbstractEventLoop, float] = {}

    def put(self, response: Response, event: Event) -> None:
        self._mail.setdefault(response.loop, []).append((response, event))
        if isinstance(event, Token):  # first, for it is what nearly all are
            if not response.whole:
                self._streams.add(response.loop)
        elif isinstance(event, Ended | ResponseFailed) or not response.whole:
            self._urgent.add(response.loop)

    def send(self, now_s: float) -> list[Response]:
        """Returns the responses whose event loop is closed, so that no client can be waiting for them."""
        unreachable: list[Response] = []
        for loop in [*self._urgent, *(self._streams - self._urgent)]:
            if loop not in self._urgent and now_s - self._sent_s.get(loop, -inf) < STREAM_S:
                continue
            mail = self._mail.pop(loop)
            self._urgent.discard(loop)
            self._streams.discard(loop)
            self._sent_s[loop] = now_s
            try:
                loop.call_soon_threadsafe(_deliver, mail)
            except RuntimeError:
                del self._sent_s[loop]
                unreachable += [response for response, _ in mail]
        return unreachable


def _deliver(mail: Sequence[tuple[Response, Event]]) -> None:
    for response, event in mail:
        response.receive(event)
