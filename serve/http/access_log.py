"""One JSON line for every request when it ends, from the logger `serve.access`. No prompt, no text, no key.

Probes of /health and /metrics are lines of level DEBUG.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.generation import Choices

logger = logging.getLogger("serve.access")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that has left before its answer."""
PROBES = ("/health", "/metrics")


class AccessLogMiddleware:
    """Plain ASGI, inside RequestIdMiddleware. What was generated is in `scope["state"]["choices"]`, if anything was.

    now: Unix seconds. clock: seconds, monotonic.
    """

    def __init__(
        self, app: ASGIApp, *, now: Callable[[], float] = time, clock: Callable[[], float] = monotonic
    ) -> None:
        self._app, self._now, self._clock = app, now, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status, complete, waited_s = self._clock(), 0, False, 0.0

        async def watched(message: Message) -> None:
            nonlocal status, complete, waited_s
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
                if (choices := scope.get("state", {}).get("choices")) is not None:
                    sent_s = self._clock()
                    choices.sent(sent_s, waited_s=waited_s, last=complete)
                    await send(message)
                    waited_s = max(waited_s, self._clock() - sent_s)
                    return
            await send(message)

        failed = False
        try:
            await self._app(scope, receive, watched)
        except Exception:
            failed = True
            raise
        finally:
            # An answer that was cut off had its status line already, as a rule 200.
            shown = status or (500 if failed else CLIENT_CLOSED_REQUEST)
            client_gone = not failed and (not complete or status == CLIENT_CLOSED_REQUEST)
            level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
            if logger.isEnabledFor(level):
                times = {"time": _iso(self._now()), "duration_ms": round((self._clock() - began_s) * 1e3, 2)}
                logger.log(level, "%s", json.dumps(times | _entry(scope, shown, client_gone=client_gone)))


def _entry(scope: Scope, status: int, *, client_gone: bool) -> dict[str, Any]:
    """All of the line but its times. For several choices, their sums; budget_met only if all of them met it."""
    state = scope.get("state", {})
    route = scope.get("route")
    line: dict[str, Any] = {
        "request_id": state.get("request_id"),
        "method": scope["method"],
        "route": getattr(route, "path", None) or scope["path"][:200],
        "status": status,
        "client_gone": client_gone,
    }
    choices: Choices | None = state.get("choices")
    return line if choices is None else line | _generated(choices)


def _generated(choices: Choices) -> dict[str, Any]:
    submodels: Counter[str] = Counter()
    for generation in choices.generations:
        submodels += generation.progress.submodels
    reports = [generation.report() for generation in choices.generations]
    mets = [report.budget_met for report in reports]

    def of_each(name: str) -> Any:
        values = [getattr(report, name) for report in reports]
        return values[0] if len(values) == 1 else values

    in_fleet = any(report.replica is not None for report in reports)
    return {
        "prompt_tokens": choices.prompt_tokens,
        "completion_tokens": submodels.total(),
        "choices": len(reports),
        "submodels": dict(submodels),
        "budget_ms": reports[0].budget_ms,  # one budget holds for all choices
        "predicted_ms": of_each("predicted_ms"),
        "measured_ms": of_each("measured_ms"),
        "time_ms": of_each("time_ms"),
        "delivered_ms": {part: round(ms, 2) for part, ms in choices.delivered.items()},
        "budget_met": None if None in mets else all(mets),
        **({name: of_each(name) for name in ("kind", "replica", "migrations")} if in_fleet else {}),
    }


def _iso(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
