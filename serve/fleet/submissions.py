"""Requests on their way to replicas: those that come together go together, so that one step has the prompts of all."""

from __future__ import annotations

import asyncio

from serve.engine.hold import HOLD_S
from serve.fleet.frames import frame
from serve.fleet.replica_link import ReplicaLink
from serve.fleet.routed_request import RoutedRequest


class Submissions:
    """Entered by who reads a request whose body has come, left when it was submitted or refused."""

    def __init__(self) -> None:
        self._coming = 0
        self._waiting: dict[ReplicaLink, list[tuple[int, RoutedRequest]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._coming += 1

    def __exit__(self, *_: object) -> None:
        self._coming -= 1
        if not self._coming:
            self.send()

    def add(self, routed: RoutedRequest, link: ReplicaLink) -> None:
        """It goes at once where no other is being read, else with that, or in a few milliseconds."""
        self._waiting.setdefault(link, []).append((routed.number, routed))
        if not self._coming:
            self.send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HOLD_S, self.send)

    def send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        for link, requests in waiting.items():
            going = []
            for number, routed in requests:
                if routed.link is link and routed.number == number:
                    going.append(routed.to_json(link.offset_s))
                elif link.mirror is not None:  # cancelled meanwhile, or gone elsewhere: the replica never hears of it
                    link.mirror.remove(number)
            link.send(frame("submit", going))
