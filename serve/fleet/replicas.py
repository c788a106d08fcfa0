"""The replicas that an ingress is connected to: found where they say that they are, and watched for their silence."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from time import time
from typing import Any

import numpy as np

from lts_ray.timing import Clock
from serve.engine.fleet_observer import MigrationReason, ReplicaState
from serve.fleet.frames import frame
from serve.fleet.replica_link import CUT_S, SILENT_S, ReplicaLink
from serve.fleet.replica_mirror import ReplicaMirror
from serve.fleet.replica_registry import DEAD_S, Registry
from serve.fleet.routed_request import RoutedRequest
from serve.routing.replica_view import ReplicaView
from serve.routing.shortlist import Shortlist

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often the registry is read."""
TICK_S = 0.1
"""How often silence is looked for."""
STALL_S = 0.5
"""An ingress that was itself stopped for longer has heard nothing, whatever was said."""


class Replicas:
    """Everything belongs to the event loop that `start` runs on. Iterate for the links, those included that are silent.

    take_events: see ReplicaLink. lost: called for a link whose requests are to go on elsewhere; again and again while
    it is silent. changed: called once a replica is there that was not, and with every tick.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        fingerprint: str,
        clock: Clock,
        take_events: Callable[[ReplicaLink, Sequence[list[Any]]], None],
        lost: Callable[[ReplicaLink, MigrationReason], None],
        changed: Callable[[], None],
        rng: np.random.Generator | None = None,
    ) -> None:
        """rng: draws those that a request is shown where they are many; None: one of its own."""
        self._shortlist = Shortlist(np.random.default_rng() if rng is None else rng)
        self._registry, self._fingerprint, self._clock = registry, fingerprint, clock
        self._take_events, self._lost, self._changed = take_events, lost, changed
        self._links: dict[str, ReplicaLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._config: Mapping[str, Any] | None = None
        self._ticked_s = clock()

    def __iter__(self) -> Iterator[ReplicaLink]:
        return iter(list(self._links.values()))

    def __getitem__(self, id: str) -> ReplicaLink:
        return self._links[id]

    async def start(self) -> None:
        """Looks for replicas at once, and from then on."""
        await self._look()
        self._spawn(self._keep_looking())
        self._spawn(self._keep_ticking())

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def use_config(self, config: Mapping[str, Any]) -> None:
        """For all, those too that come later."""
        self._config = config
        for link in self:
            link.send(frame("config", config))

    def usable(self) -> list[ReplicaLink]:
        """Those that take requests; those that are to leave only where there is no other."""
        usable = [link for link in self if link.takes_requests]
        return [link for link in usable if not link.drains] or usable

    @property
    def are_many(self) -> bool:
        """So that a request is shown some of them only."""
        return self._shortlist.are_many

    def views(self, now_ms: float, *, but: ReplicaLink | None = None) -> list[ReplicaView]:
        """Of all that are usable, but for one."""
        return [link.mirror.view(now_ms) for link in self.usable() if link.mirror and link is not but]

    def shown(
        self, routed: RoutedRequest, now_ms: float, *, but: ReplicaLink | None, shared: Mapping[str, int]
    ) -> list[ReplicaView]:
        """Of those that take the request and are not to leave: all, or a shortlist where they are many.

        shared: tokens of its prompt that replicas have seen.
        """
        ahead = sorted(shared, key=shared.__getitem__, reverse=True)
        mirrors: dict[str, ReplicaMirror] = {}

        def load(id: str) -> int | None:
            link = self._links[id]
            if (mirror := link.mirror) is None or link is but or link.drains or not link.takes_requests:
                return None
            mirrors[id] = mirror
            takes = (routed.placed or mirror.has_place) and mirror.fits(routed.request)
            return mirror.load if takes else None

        return [mirrors[id].view(now_ms) for id in self._shortlist.draw(load, ahead=ahead)]

    def states(self) -> Mapping[tuple[str, ReplicaState], int]:
        """How many there are, by kind and state."""
        counted: Counter[tuple[str, ReplicaState]] = Counter()
        for link in self:
            if link.is_open:
                state: ReplicaState = "silent" if not link.takes_requests else "draining" if link.drains else "ready"
                counted[link.address.kind, state] += 1
        return counted

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except Exception as error:  # those that are known go on
                logger.warning("where replicas are could not be read: %s", error)

    async def _look(self) -> None:
        for address in await asyncio.to_thread(self._registry.read):
            fits = address.fingerprint == self._fingerprint and address.at_s > time() - DEAD_S
            if fits and address.id not in self._links:
                link = ReplicaLink(address, clock=self._clock, take_events=self._take_events, ready=self._greet)
                self._links[address.id] = link
                self._shortlist.join(address.id, address.kind)
                self._spawn(self._keep(link))

    async def _keep(self, link: ReplicaLink) -> None:
        """From its connection to its end; it is looked for again while it says that it lives."""
        await link.run()
        del self._links[link.address.id]
        self._shortlist.leave(link.address.id)
        if link.mirror is not None:
            logger.info("replica %s of kind %s is gone", link.address.id, link.address.kind)
            self._lost(link, "draining" if link.drains else "died")

    def _greet(self, link: ReplicaLink) -> None:
        logger.info("replica %s of kind %s is there", link.address.id, link.address.kind)
        if self._config is not None:
            link.send(frame("config", self._config))
        self._changed()

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.tick()
            except Exception:
                logger.exception("replicas could not be looked after")

    def tick(self) -> None:
        now_s = self._clock()
        if now_s - self._ticked_s > STALL_S:
            for link in self:
                link.heard_s = now_s
        self._ticked_s = now_s
        for link in self:
            if link.failure is not None or link.silent_s() > SILENT_S:
                if link.mirror is not None and link.mirror.numbers:
                    logger.warning("replica %s %s", link.address.id, link.failure or "says nothing")
                self._lost(link, "silent" if link.failure is None else "died")
            if link.silent_s() > CUT_S:
                link.cut()
            if link.drains:
                self._let_go(link)
        self._changed()

    def _let_go(self, link: ReplicaLink) -> None:
        """A replica that is to leave may do so once it has no request of this ingress, and there is another one."""
        others = any(other.takes_requests and not other.drains for other in self)
        free = others and link.mirror is not None and not link.mirror.numbers
        if free != link.released:
            link.released = free
            link.send(frame("release", free))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
