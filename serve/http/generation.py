"""Responses as text: one choice by itself, and all choices of a request in the order in which their text comes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Set
from dataclasses import dataclass, field, replace
from typing import Literal

from serve.engine.engine_errors import EngineFailedError
from serve.engine.response import LeaveReason, Progress, Response, Token
from serve.http.delivery_times import DeliveryTimes, Part
from serve.http.response_schemas import ChunkTrace, Report, ReportPerChoice
from serve.http.response_text import ResponseText
from serve.policies.request import Request

logger = logging.getLogger(__name__)

SLOW_CLIENT_S = 0.05
"""The server takes bytes at once, unless a client is so slow to read that they pile up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPiece:
    """Text of one choice that came at once."""

    index: int
    """Of the choice."""
    text: str
    """Empty where a character is unfinished, or the choice ended without more."""
    ended: bool = False
    """No more comes for this choice."""
    tokens: tuple[Token, ...] = ()
    """Those that wrote it, only where log probabilities are asked for."""
    starts: tuple[int, ...] = ()
    """Where each of the tokens begins in the choice's text."""
    trace: ChunkTrace | None = None
    """Only where it is asked for."""
    taken: int = 0
    """Tokens of the choice so far."""


class Generation:
    """One choice. Iterate for its pieces, the last one `ended`; its progress and report are final afterwards.

    traced: every token is in a piece, and a piece has the tokens of one submodel and says which. untrained: the
    submodels that nothing vouches for.
    """

    def __init__(
        self,
        response: Response,
        request: Request,
        text: ResponseText,
        *,
        index: int = 0,
        traced: bool = False,
        untrained: Set[str] = frozenset(),
    ) -> None:
        self.index, self.request, self._untrained = index, request, untrained
        self._response, self._text, self._traced = response, text, traced
        self._tokens: list[Token] = []  # kept only where log probabilities are asked for
        self._after_stop: tuple[Token, ...] = ()
        self._last: Token | None = None
        self._taken_tokens = 0

    async def __aiter__(self) -> AsyncIterator[TextPiece]:
        """Frees the engine's row when the reader stops, for whatever reason."""
        try:
            async for tokens in self._response:
                for run in _runs(tokens) if self._traced else (tokens,):
                    piece = self._push(run)
                    if piece.text or piece.tokens or piece.trace:
                        yield piece
                    if self._text.stopped:
                        break
                if self._text.stopped:
                    self._after_stop = tokens[self._taken(tokens) :]
                    break
        except EngineFailedError:
            raise
        except Exception:
            self.cancel("failed")
            raise
        finally:
            self.cancel("stop" if self._text.stopped else "cancelled")
        shown = self._text.released
        rest = self._text.finish()
        yield self._piece(rest, shown, ended=True, trace=self._trace(0) if rest else None)

    def cancel(self, reason: LeaveReason = "cancelled") -> None:
        self._response.cancel(reason)

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """A response whose last token, by max_tokens, ends a stop string has stopped."""
        return "stop" if self._text.stopped or self._response.finish_reason != "length" else "length"

    @property
    def progress(self) -> Progress:
        """What has happened so far, without the tokens that came together with one that ended a stop string."""
        progress = self._response.progress
        if not self._after_stop or self._last is None:
            return progress
        beyond = Counter(token.submodel for token in self._after_stop)
        return replace(progress, submodels=progress.submodels - beyond, last_s=self._last.at_s, ended_s=None)

    def report(self) -> Report:
        progress, request = self.progress, self.request
        predicted, measured = progress.predicted, progress.measured()
        report = Report(
            submodel=progress.submodel,
            tokens=dict(progress.submodels),
            predicted_ms=None if predicted is None else predicted.likely.to_json(),
            predicted_interval_ms=None if predicted is None else predicted.interval(),
            measured_ms=None if measured is None else measured.to_json(),
            time_ms=None if measured is None else self._time_ms(progress, measured.e2e_ms),
            budget_ms=request.wanted.items() or None,
            budget_met=all(request.kept(measured).values()) if request.wanted and measured is not None else None,
        )
        if self._untrained & {progress.submodel, *progress.submodels}:
            report.untrained = True  # where it is false it is left out
        if progress.places:
            last = progress.places[-1]
            report.kind, report.replica, report.migrations = last.kind, last.replica, len(progress.places) - 1
        return report

    def _time_ms(self, progress: Progress, e2e_ms: float) -> dict[Literal["queue", "engine", "delivery"], float]:
        queue_ms = e2e_ms if progress.admitted_s is None else (progress.admitted_s - progress.arrived_s) * 1e3
        parts = (queue_ms, e2e_ms - queue_ms, self.request.delivery.end_ms)
        return dict(zip(("queue", "engine", "delivery"), (round(part, 2) for part in parts), strict=True))

    def _push(self, tokens: tuple[Token, ...]) -> TextPiece:
        """Stops after the token that ends a stop string."""
        push, text, shown, count = self._text.push, "", self._text.released, 0
        for token in tokens:
            text += push(token.id)
            count += 1
            if self._text.stopped:
                break
        if self.request.top_logprobs is not None:
            self._tokens.extend(tokens[:count])
        self._last = token
        self._taken_tokens += count
        return self._piece(text, shown, trace=self._trace(count))

    def _trace(self, tokens: int) -> ChunkTrace | None:
        """Of the newest tokens; of none where only their text is new."""
        if not self._traced or self._last is None:
            return None
        at_ms = (self._last.at_s - self._response.progress.arrived_s) * 1e3
        return ChunkTrace(submodel=self._last.submodel, tokens=tokens, at_ms=round(at_ms, 2))

    def _taken(self, tokens: tuple[Token, ...]) -> int:
        """How many of the newest `tokens` have been pushed."""
        return next(place for place, token in enumerate(tokens, 1) if token is self._last)

    def _piece(self, text: str, shown: int, *, ended: bool = False, trace: ChunkTrace | None = None) -> TextPiece:
        if self.request.top_logprobs is None:
            return TextPiece(index=self.index, text=text, ended=ended, trace=trace, taken=self._taken_tokens)
        now = self._text.released
        return TextPiece(
            index=self.index,
            text=text,
            ended=ended,
            tokens=tuple(self._tokens[shown:now]),
            starts=self._text.starts(shown, now),
            trace=trace,
            taken=self._taken_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """All that one request of the wire has asked for. Iterate for the pieces of all choices as they come."""

    generations: tuple[Generation, ...]
    prompt_tokens: int
    """Each prompt's once, however many choices it has."""
    whole: bool = False
    """They become one body, not a stream."""
    deliveries: DeliveryTimes = field(default_factory=DeliveryTimes)
    delivered: dict[Part, float] = field(default_factory=dict)
    """How many milliseconds it took, once bytes were sent."""

    async def __aiter__(self) -> AsyncIterator[TextPiece]:
        """Raises what a choice raises, at once. A slow reader gets fewer and longer pieces."""
        if len(self.generations) == 1:
            async for piece in self.generations[0]:
                yield piece
            return
        # One place: while it is taken, tokens gather in the responses, and the next piece has them all.
        pieces: asyncio.Queue[TextPiece | Exception] = asyncio.Queue(maxsize=1)

        async def feed(generation: Generation) -> None:
            try:
                async for piece in generation:
                    await pieces.put(piece)
            except Exception as error:
                await pieces.put(error)

        feeding = [asyncio.create_task(feed(generation)) for generation in self.generations]
        try:
            left = len(feeding)
            while left:
                new = await pieces.get()
                if isinstance(new, Exception):
                    raise new
                left -= new.ended
                yield new
        finally:
            for task in feeding:
                task.cancel()

    def cancel(self, reason: LeaveReason = "cancelled") -> None:
        for generation in self.generations:
            generation.cancel(reason)

    def sent(self, now_s: float, *, waited_s: float, last: bool) -> None:
        """To be called when bytes of the answer go to the server. last: no more will.

        now_s: by the engine's clock. waited_s: how long the server took at most to take bytes before these.
        """
        part: Part = "first" if not last else "whole" if self.whole else "stream"
        if part in self.delivered:
            return
        progress = [generation.progress for generation in self.generations]
        made_s = [each.ended_s or each.last_s if last else each.first_s for each in progress]
        known_s = [at_s for at_s in made_s if at_s is not None]
        if known_s:
            at_s = (max if last else min)(known_s)
            self.delivered[part] = (now_s - at_s) * 1e3
            if waited_s < SLOW_CLIENT_S:  # else it was the client that let bytes wait, which says nothing of others
                self.deliveries.note(part, self.delivered[part])

    def fail(self) -> None:
        """To be called where an error is handled: what has come of the choices could not be made an answer."""
        logger.exception("request %s: its answer could not be written", self.generations[0].request.label)
        self.cancel("failed")

    @property
    def completion_tokens(self) -> int:
        return sum(generation.progress.tokens for generation in self.generations)

    def report(self) -> Report | ReportPerChoice:
        """The `lts` field of the answer."""
        reports = [generation.report() for generation in self.generations]
        return reports[0] if len(reports) == 1 else ReportPerChoice(choices=reports)


def _runs(tokens: tuple[Token, ...]) -> list[tuple[Token, ...]]:
    """Cut where the submodel changes."""
    cuts = [place for place in range(1, len(tokens)) if tokens[place].submodel != tokens[place - 1].submodel]
    return [tokens[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]
