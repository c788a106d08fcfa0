"""One request's tokens on their way from the engine's thread to the event loop that waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal

from serve.budget import Timing
from serve.errors import EngineFailedError

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Admitted:
    """The prefill begins. predicted: what the chosen submodel is expected to take, the wait included."""

    submodel: str
    predicted: Timing


@dataclass(frozen=True)
class Token:
    id: int
    submodel: str
    at_s: float


@dataclass(frozen=True)
class Ended:
    reason: FinishReason
    at_s: float


@dataclass(frozen=True)
class Failed:
    message: str


Event = Admitted | Token | Ended | Failed


@dataclass(kw_only=True)
class Progress:
    """What has happened so far. submodel: chosen at admission. submodels: tokens by the submodel that made them."""

    arrived_s: float
    submodel: str | None = None
    predicted: Timing | None = None
    submodels: Counter[str] = field(default_factory=Counter)
    first_s: float | None = None
    last_s: float | None = None
    ended_s: float | None = None

    def note(self, event: Admitted | Token | Ended) -> None:
        match event:
            case Admitted():
                self.submodel, self.predicted = event.submodel, event.predicted
            case Token():
                self.submodels[event.submodel] += 1
                self.first_s = event.at_s if self.first_s is None else self.first_s
                self.last_s = event.at_s
            case Ended():
                self.ended_s = event.at_s

    @property
    def tokens(self) -> int:
        return self.submodels.total()

    def measured(self) -> Timing | None:
        """None before anything came. The step that ends a response without a token counts for e2e only."""
        end_s = self.last_s if self.ended_s is None else self.ended_s
        if end_s is None:
            return None
        first_s, last_s = (end_s, end_s) if self.first_s is None or self.last_s is None else (self.first_s, self.last_s)
        return Timing(
            ttft_ms=(first_s - self.arrived_s) * 1e3,
            tpot_ms=(last_s - first_s) / max(1, self.tokens - 1) * 1e3,
            e2e_ms=(end_s - self.arrived_s) * 1e3,
        )


class Response:
    """Iterate for the tokens; afterwards finish_reason and progress say how it went.

    `push` may be called from any thread; all else belongs to the event loop that made the response.
    """

    def __init__(self, *, arrived_s: float, cancel: Callable[[], None]) -> None:
        self.progress = Progress(arrived_s=arrived_s)
        self.finish_reason: FinishReason | None = None
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def push(self, event: Event) -> bool:
        """Hand over an event; False when nobody can be waiting any more, because the event loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            return False
        return True

    def cancel(self) -> None:
        """Free the request's place at the next step boundary. No effect on a response that has ended."""
        if self.finish_reason is None:
            self._cancel()

    async def __aiter__(self) -> AsyncIterator[Token]:
        """Raises EngineFailedError when a step with this request failed."""
        while True:
            event = await self._events.get()
            match event:
                case Failed():
                    raise EngineFailedError(event.message)
                case Ended():
                    self.progress.note(event)
                    self.finish_reason = event.reason
                    return
                case Token():
                    self.progress.note(event)
                    yield event
                case Admitted():
                    self.progress.note(event)
