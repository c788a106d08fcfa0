"""The replica's end of the connections: each ingress has one, and all its requests and their tokens go over it.

What the engine hands over at once goes out as one frame. A connection that ends takes its requests with it.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hmac import compare_digest
from math import isfinite
from secrets import token_hex
from typing import Any

from lts_ray.errors import LtsRayError
from serve.engine.engine import Engine
from serve.engine.engine_errors import EngineFailedError, QueueFullError
from serve.engine.learned_times import LearnedTimes
from serve.engine.response import Ended, Event, Response, ResponseFailed
from serve.fleet.frames import (
    BUSY,
    CARDS,
    LOST,
    MAX_FRAME_BYTES,
    REPORTS,
    adapted,
    event_json,
    frame,
    read_frame,
    read_request,
)
from serve.fleet.replica_card import OtherJob, ReplicaCard, ReplicaReport
from serve.policies.policy import Job
from serve.policies.request import Resumed

logger = logging.getLogger(__name__)

REPORT_S = 0.25
"""An ingress hears so often of a replica at least, or takes it for gone (see serve.fleet.replica_link)."""
FRESH_S = 0.05
"""With an answer's end a report goes out, unless one did so lately."""
HELLO_S = 5.0
STUCK_S = 2.0
"""A step that has lasted so long, and STUCK_STEPS times what the longest should, does not end."""
STUCK_STEPS = 5
STALL_S = 3 * REPORT_S
"""Without a report for so long the whole process stood still: that says nothing of a step."""


class ReplicaServer:
    """Everything belongs to the event loop that `start` runs on."""

    def __init__(
        self,
        engine: Engine,
        card: ReplicaCard,
        *,
        times: LearnedTimes,
        reconfigure: Callable[[Mapping[str, Any]], None] = lambda config: None,
    ) -> None:
        """times: the engine's. reconfigure: takes an ingress' `user_config`; raises LtsRayError for a wrong one."""
        self.engine, self.card, self.times, self.reconfigure = engine, card, times, reconfigure
        self.secret = token_hex()
        self.draining = False
        self._idle_s = self._asked_s = engine.clock()
        self._ingresses: set[_Ingress] = set()
        self._server: asyncio.Server | None = None
        costs, capacity = card.costs, card.capacity
        longest_ms = costs.step_ms([card.universal.group(capacity.chunk_tokens, 0, capacity.slots)])
        self._stuck_s = max(STUCK_S, STUCK_STEPS * longest_ms / 1e3)

    async def start(self, host: str) -> int:
        """Returns the port."""
        self._server = await asyncio.start_server(self._meet, host, 0, limit=MAX_FRAME_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def drain(self, seconds: float) -> None:
        """Until each ingress has sent its requests elsewhere, and these have ended, but no longer than that."""
        self.draining = True
        for ingress in self._ingresses:
            ingress.report()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(not ingress.released or ingress.responses for ingress in self._ingresses):
                    await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """What is not done goes on elsewhere."""
        if self._server is not None:
            self._server.close()
        for ingress in list(self._ingresses):
            ingress.close()

    def failure(self) -> str | None:
        """Why the engine can be given nothing."""
        try:
            self.engine.check()
        except EngineFailedError as error:
            return str(error)
        now_s = self.engine.clock()
        if self.engine.counts() == (0, 0) or now_s - self._asked_s > STALL_S:
            self._idle_s = now_s
        self._asked_s = now_s
        passed_s = min(self.times.passed_s, now_s - self._idle_s)
        if passed_s > self._stuck_s:
            return f"its engine has been in one step for {passed_s:.0f} s"
        return None

    def report(self, ingress: _Ingress) -> ReplicaReport:
        now_s, costs = self.engine.clock(), self.engine.costs
        situation = self.engine.situation(now_s)
        mine = ingress.requests
        running = [(job, True) for job in situation.running if id(job.request) not in mine]
        waiting = [(job, False) for job in situation.waiting if id(job.request) not in mine]
        return ReplicaReport(
            now_s=now_s,
            slowdown=costs.slowdown,
            prompt_slowdown=costs.prompt_slowdown,
            overhead_ms=costs.overhead_ms,
            deviation=situation.deviation,
            others=tuple(_other(job, runs) for job, runs in (*running, *waiting)),
            draining=self.draining,
            failure=self.failure(),
        )

    async def _meet(self, reader: StreamReader, writer: StreamWriter) -> None:
        ingress = None
        try:
            async with asyncio.timeout(HELLO_S):
                hello = await read_frame(reader)
            if hello is None or not compare_digest(str(hello.get("hello")), self.secret):
                return
            ingress = _Ingress(self, writer)
            self._ingresses.add(ingress)
            await ingress.run(reader)
        except (OSError, ValueError, TimeoutError) as error:
            logger.warning("a connection of an ingress ended: %s", error)
        finally:
            if ingress is not None:
                self._ingresses.discard(ingress)
                ingress.leave()
            writer.close()


class _Ingress:
    """The connection of one, and its requests here."""

    def __init__(self, server: ReplicaServer, writer: StreamWriter) -> None:
        self._server, self._writer = server, writer
        self.responses: dict[int, Response] = {}
        self.requests: dict[int, int] = {}
        """Python's ids of its requests, which the engine keeps as they are; each with its number."""
        self.released = False
        self._events: list[list[Any]] = []
        self._loop = asyncio.get_running_loop()
        self._reported_s = 0.0

    async def run(self, reader: StreamReader) -> None:
        self._writer.write(frame("card", adapted(CARDS, self._server.card)))
        self.report()
        reports = asyncio.create_task(self._keep_reporting())
        try:
            while (read := await read_frame(reader)) is not None:
                self._take(read)
        finally:
            reports.cancel()

    def report(self) -> None:
        self._reported_s = self._loop.time()
        self._writer.write(frame("report", adapted(REPORTS, self._server.report(self))))

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def leave(self) -> None:
        for response in list(self.responses.values()):
            response.cancel("moved" if self._server.draining else "cancelled")
        self.responses.clear()

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self.report()

    def _take(self, read: Mapping[str, Any]) -> None:
        match read:
            case {"submit": list(requests)}:
                with self._server.engine.hold:
                    for request in requests:
                        self._submit(request["number"], request)
            case {"cancel": int(number), "reason": reason}:
                if (response := self.responses.get(number)) is not None:
                    response.cancel(reason)
            case {"config": dict(config)}:
                try:
                    self._server.reconfigure(config)
                except LtsRayError as error:
                    logger.error("user_config is not taken over: %s", error)
            case {"release": released}:
                self.released = bool(released)
            case _:
                raise ValueError(f"no such frame: {sorted(read)}")

    def _submit(self, number: int, read: Mapping[str, Any]) -> None:
        """The ingress has judged it; what is refused here, it may send elsewhere."""
        request = replace(read_request(read["request"]), strict=False, whole=False)
        resumed = (
            None if read.get("resumed") is None else Resumed(tokens=tuple(read["resumed"]), first_s=read.get("first_s"))
        )
        try:
            response = self._server.engine.submit(request, arrived_s=read["arrived_s"], resumed=resumed)
        except (QueueFullError, EngineFailedError) as error:
            self._send([number, BUSY, str(error)])
            return
        except LtsRayError as error:
            self._send(event_json(number, ResponseFailed(str(error))))
            return
        self.responses[number], self.requests[id(request)] = response, number
        response.forward = partial(self._forward, number, id(request))

    def _forward(self, number: int, key: int, event: Event) -> None:
        """Called with each of the engine's events, many at once."""
        if isinstance(event, Ended | ResponseFailed):
            self.responses.pop(number, None)
            self.requests.pop(key, None)
        if isinstance(event, ResponseFailed) and self._server.failure() is not None:
            self._send([number, LOST, event.message])
        else:
            self._send(event_json(number, event))

    def _send(self, event: list[Any]) -> None:
        if not self._events:
            self._loop.call_soon(self._flush)
        self._events.append(event)

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._writer.write(frame("events", events))
            if any(event[1] == "e" for event in events) and self._loop.time() - self._reported_s > FRESH_S:
                self.report()


def _other(job: Job, runs: bool) -> OtherJob:
    return OtherJob(
        prompt=len(job.request.prompt),
        max_tokens=job.request.max_tokens,
        produced=job.produced,
        arrived_ms=job.arrived_ms,
        due_ms=job.due_ms if isfinite(job.due_ms) else None,
        pinned=job.request.pinned,
        runs=runs,
    )
