"""The ingress' end of one connection to a replica. It tells what comes, and how long nothing has come."""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamWriter
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lts_ray.timing import Clock
from serve.fleet.frames import MAX_FRAME_BYTES, REPORTS, frame, read_card, read_frame
from serve.fleet.replica_mirror import ReplicaMirror
from serve.fleet.replica_registry import ReplicaAddress

logger = logging.getLogger(__name__)

SUSPECT_S = 1.0
"""After so long without a word a replica gets no new request. It reports four times a second at least."""
SILENT_S = 2.0
"""After so long its requests go on elsewhere."""
CUT_S = 5.0
"""After so long a new connection is made: a network that heals lets an old one wait as long as it was away."""
CONNECT_S = 2.0
REPORTS_KEPT = 240
"""From which the clocks' offset is taken: the report that was quickest on its way tells it best."""


class ReplicaLink:
    """`run` until it returns; then the replica can be reached no more, for now at least."""

    def __init__(
        self,
        address: ReplicaAddress,
        *,
        clock: Clock,
        take_events: Callable[[ReplicaLink, Sequence[list[Any]]], None],
        ready: Callable[[ReplicaLink], None],
    ) -> None:
        """take_events: called with the events of a frame, as they were sent. ready: once, when the card has come."""
        self.address, self._clock, self._take_events, self._ready = address, clock, take_events, ready
        self.mirror: ReplicaMirror | None = None
        """None before its card has come."""
        self.heard_s = clock()
        self.released = False
        """It may leave, for all that this ingress has to do."""
        self._offsets: deque[float] = deque(maxlen=REPORTS_KEPT)
        self._writer: StreamWriter | None = None

    @property
    def offset_s(self) -> float:
        """This clock's before the replica's, the time on the way included."""
        return min(self._offsets, default=0.0)

    @property
    def is_open(self) -> bool:
        return self.mirror is not None and self._writer is not None and not self._writer.is_closing()

    def silent_s(self) -> float:
        return self._clock() - self.heard_s

    @property
    def failure(self) -> str | None:
        """Why it takes no requests, as it says itself."""
        return None if self.mirror is None else self.mirror.report.failure

    @property
    def takes_requests(self) -> bool:
        """Also while it drains: where no other does, it goes on."""
        return self.is_open and self.failure is None and self.silent_s() < SUSPECT_S

    @property
    def drains(self) -> bool:
        return self.mirror is not None and self.mirror.report.draining

    async def run(self) -> None:
        """Until the connection ends. Raises nothing but being cancelled."""
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, self._writer = await asyncio.open_connection(
                    self.address.host, self.address.port, limit=MAX_FRAME_BYTES
                )
            self.heard_s = self._clock()
            self.send(frame("hello", self.address.secret))
            while (read := await read_frame(reader)) is not None:
                self._take(read)
        except (OSError, TimeoutError) as error:
            logger.debug("replica %s: %s", self.address.id, error)
        except ValueError as error:
            logger.warning("replica %s said what is not understood: %s", self.address.id, error)
        finally:
            self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def cut(self) -> None:
        """Whatever was still to be sent: `run` ends."""
        if self._writer is not None:
            self._writer.transport.abort()

    def send(self, data: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(data)

    def _take(self, read: Mapping[str, Any]) -> None:
        self.heard_s = self._clock()
        match read:
            case {"events": list(events)}:
                self._take_events(self, events)
            case {"report": report} if self.mirror is not None:
                taken = REPORTS.validate_python(report)
                self._offsets.append(self.heard_s - taken.now_s)
                self.mirror.take(taken, self.offset_s)
                if len(self._offsets) == 1:
                    self._ready(self)
            case {"card": card}:
                self.mirror = ReplicaMirror(read_card(card))
            case _:
                raise ValueError(f"no such frame: {sorted(read)}")
