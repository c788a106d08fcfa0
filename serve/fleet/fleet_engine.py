"""All replicas that an ingress can reach, as one: a request goes where the router says, and on to another if that dies.

It belongs to one event loop. What it decides on is what it has sent itself and what has come back, token by token.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic, perf_counter
from typing import Any

from lts_ray.decoding.plain_loop import check_length
from lts_ray.errors import LtsRayError
from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.timing import Clock
from serve.engine.engine_errors import BudgetInfeasibleError, EngineFailedError, QueueFullError, one_line
from serve.engine.fleet_observer import FleetLoad, FleetObserver, MigrationReason
from serve.engine.response import Admitted, Ended, LeaveReason, Placed, Response, ResponseFailed, Token
from serve.fleet.frames import BUSY, LOST, frame, read_event
from serve.fleet.replica_link import ReplicaLink
from serve.fleet.replica_registry import Registry
from serve.fleet.replicas import Replicas
from serve.fleet.routed_request import RoutedRequest
from serve.fleet.submissions import Submissions
from serve.policies.admission import drain_s
from serve.policies.capacity import Capacity
from serve.policies.menu import Menu
from serve.policies.request import Request
from serve.routing.budget_router import smallest_feasible
from serve.routing.prefix_index import PrefixIndex
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Route, Router

logger = logging.getLogger(__name__)

PENDING_S = 120.0
"""How long a request waits for a replica, where there is none: one may have to be started."""


class Fleet:
    """Has the interface of `serve.engine.serving.Serving`, as one engine has."""

    def __init__(
        self,
        *,
        config: DecoderConfig,
        menu: Menu,
        capacity: Capacity,
        router: Router,
        registry: Registry,
        fingerprint: str,
        max_migrations: int = 2,
        observer: FleetObserver | None = None,
        clock: Clock = monotonic,
    ) -> None:
        """capacity: of a replica. fingerprint: of the model and the frontier that are served; other replicas are none
        of this fleet.
        """
        self.config, self.menu, self.capacity, self.clock = config, menu, capacity, clock
        self._router, self._observer = router, FleetObserver() if observer is None else observer
        self._max_migrations = max_migrations
        self._prefixes, self._submissions = PrefixIndex(), Submissions()
        self._replicas = Replicas(
            registry,
            fingerprint=fingerprint,
            clock=clock,
            take_events=self._take,
            lost=self._move_from,
            changed=self._look_after_pending,
        )
        self._numbers = itertools.count()
        self._placed: dict[int, RoutedRequest] = {}
        self._pending: list[RoutedRequest] = []
        self._stopping = False

    # What the routes ask of an engine.

    @property
    def hold(self) -> Submissions:
        return self._submissions

    @property
    def costs(self) -> StepCosts:
        """Raises EngineFailedError where there is no replica."""
        known = [link.mirror.costs for link in self._replicas if link.mirror is not None]
        if not known:
            raise EngineFailedError("no replica is there yet")
        return min(known, key=lambda costs: costs.step_ms([self.menu.universal.group(1, 0, 1)]))

    def check(self) -> None:
        if self._stopping:
            raise EngineFailedError("the server is shutting down")

    def counts(self) -> tuple[int, int]:
        runs = sum(routed.runs for routed in self._placed.values())
        return runs, len(self._placed) + len(self._pending) - runs

    def load(self) -> FleetLoad:
        """What the replicas do not tell of themselves."""
        return FleetLoad(waiting=len(self._pending), replicas=self._replicas.states())

    def submit(self, request: Request, *, arrived_s: float | None = None) -> Response:
        self.check()
        check_length(len(request.prompt), request.max_tokens, self.config.context_length)
        now_s = self.clock()
        arrived_s = now_s if arrived_s is None else arrived_s
        routed = RoutedRequest(request=request, arrived_s=arrived_s)
        response = Response(arrived_s=arrived_s, cancel=partial(self._cancel, routed), whole=request.whole)
        routed.response = response
        self._place_pending()  # a place that has become free is theirs
        views = self._views(routed)
        if not views:
            if len(self._pending) >= self.capacity.max_queue:
                self._observer.refused("queue_full")
                raise QueueFullError(self.capacity.max_queue, retry_after_s=1)
            self._wait(routed)
            return response
        fitting = [view for view in views if view.fits(request)]
        if not fitting:
            raise LtsRayError(
                f"{len(request.prompt)} prompt tokens and max_tokens {request.max_tokens} fit into no replica's cache "
                "of keys and values, or none that is up serves the submodel: ask for fewer tokens"
            )
        free = [view for view in fitting if view.has_place]
        if not free:
            self._observer.refused("queue_full")
            raise QueueFullError(self.capacity.max_queue, retry_after_s=_soonest_s(fitting))
        route = self._route(routed, free)
        if request.strict and route.met is False:
            self._observer.refused("infeasible")
            feasible = smallest_feasible(request, free, now_ms=now_s * 1e3)
            raise BudgetInfeasibleError(feasible, retry_after_s=_soonest_s(free))
        self._place(routed, self._replicas[route.replica])
        return response

    # The rest of its life.

    async def start(self) -> None:
        """Looks for replicas at once, and from then on."""
        await self._replicas.start()

    async def stop(self) -> None:
        """Replicas are let go. What is not done fails: serve on until then."""
        self._stopping = True
        for routed in [*self._placed.values(), *self._pending]:
            self._end(routed, "the server is shutting down")
        await self._replicas.stop()

    def use_config(self, config: Mapping[str, Any]) -> None:
        """The policies', for all replicas, those too that come later. They log what they cannot take over."""
        self._replicas.use_config(config)

    @property
    def ready(self) -> bool:
        """Whether a replica takes requests."""
        return bool(self._replicas.usable())

    # What happens to a request.

    def _views(self, routed: RoutedRequest, *, but: ReplicaLink | None = None) -> list[ReplicaView]:
        """Of those that have a place for it, if any has: if they are many, of some of these."""
        now_ms, prompt = self.clock() * 1e3, routed.request.prompt
        shared = self._prefixes.shared(prompt, routed.submodel(self.menu)) if self._replicas.are_many else {}
        return self._replicas.shown(routed, now_ms, but=but, shared=shared) or self._replicas.views(now_ms, but=but)

    def _route(self, routed: RoutedRequest, views: Sequence[ReplicaView]) -> Route:
        began, now_s = perf_counter(), self.clock()
        request = routed.left(now_s)
        shared = self._prefixes.shared(request.prompt, routed.submodel(self.menu))
        route = self._router.route(request, views, shared=shared, now_ms=now_s * 1e3)
        self._observer.decided(perf_counter() - began)
        return route

    def _place(self, routed: RoutedRequest, link: ReplicaLink) -> None:
        assert link.mirror is not None
        routed.number, routed.link, routed.runs = next(self._numbers), link, False
        routed.placed += 1
        self._placed[routed.number] = routed
        link.mirror.send(
            routed.number,
            routed.request,
            arrived_ms=routed.arrived_s * 1e3,
            produced=len(routed.tokens),
            first_ms=None if routed.first_s is None else routed.first_s * 1e3,
        )
        self._prefixes.note(link.address.id, routed.request.prompt, routed.submodel(self.menu))
        self._submissions.add(routed, link)
        self._observer.placed(link.address.kind)
        routed.response.receive(Placed(link.address.kind, link.address.id))

    def _take(self, link: ReplicaLink, events: Sequence[list[Any]]) -> None:
        """Of a replica. Those of requests that have gone elsewhere are passed over."""
        offset_s = link.offset_s
        for values in events:
            number = values[0]
            routed = self._placed.get(number)
            if values[1] in (LOST, BUSY):
                if link.mirror is not None:
                    link.mirror.remove(number)
                if routed is not None:
                    routed.placed -= values[1] == BUSY
                    self._move(routed, link, "died")
                continue
            event = read_event(values, offset_s)
            if link.mirror is not None:
                link.mirror.note(number, event)
            if routed is not None:
                self._give(routed, event)

    def _give(self, routed: RoutedRequest, event: Token | Admitted | Ended | ResponseFailed) -> None:
        match event:
            case Token():
                routed.tokens.append(event.id)
                if routed.first_s is None:
                    routed.first_s = event.at_s
            case Admitted():
                routed.runs = True
                if routed.tokens:
                    return  # what was said of it first is what it is measured by
            case _:
                self._forget(routed)
        routed.response.receive(event)

    def _move_from(self, link: ReplicaLink, reason: MigrationReason) -> None:
        """All that a replica has. Should it speak again, it is told that these have left."""
        if link.mirror is None:
            return
        self._prefixes.forget(link.address.id)
        for number in link.mirror.numbers:
            link.mirror.remove(number)
            link.send(frame("cancel", number, reason="moved"))
            if (routed := self._placed.get(number)) is not None:
                self._move(routed, link, reason)

    def _move(self, routed: RoutedRequest, link: ReplicaLink, reason: MigrationReason) -> None:
        self._forget(routed)
        if routed.placed > self._max_migrations:
            times = "once" if routed.placed == 1 else f"{routed.placed} times"
            self._end(routed, f"the replica that served it was lost, {times}: send it again")
            return
        self._observer.migrated(link.address.kind, reason)
        logger.warning(
            "request %s leaves replica %s (%s) after %d tokens",
            routed.request.label,
            link.address.id,
            reason,
            len(routed.tokens),
        )
        self._wait(routed)
        self._place_pending(but=link)

    def _wait(self, routed: RoutedRequest) -> None:
        routed.runs, routed.waits_since_s = False, self.clock()
        self._pending.append(routed)

    def _look_after_pending(self) -> None:
        self._place_pending()
        now_s = self.clock()
        for routed in [each for each in self._pending if now_s - each.waits_since_s > PENDING_S]:
            self._end(routed, f"no replica has had room for it in {PENDING_S:.0f} s; see `serve status`")

    def _place_pending(self, *, but: ReplicaLink | None = None) -> None:
        """but: a replica to which they do not go now."""
        for routed in sorted(self._pending, key=lambda each: (each.request.priority, each.arrived_s)):
            views = [view for view in self._views(routed, but=but) if view.fits(routed.request)]
            free = [view for view in views if view.has_place or routed.placed]  # what was taken on is refused by none
            if not free:
                continue
            try:
                link = self._replicas[self._route(routed, free).replica]
            except Exception as error:  # it is one request's: the others are still to be placed
                logger.exception("request %s finds no replica", routed.request.label)
                self._end(routed, f"choosing a replica failed: {one_line(error)}")
                continue
            self._pending.remove(routed)
            self._place(routed, link)

    def _cancel(self, routed: RoutedRequest, reason: LeaveReason) -> None:
        if routed.link is not None and routed.number in self._placed:
            routed.link.send(frame("cancel", routed.number, reason=reason))
        self._forget(routed)

    def _end(self, routed: RoutedRequest, message: str) -> None:
        self._forget(routed)
        self._observer.ended(routed.request, routed.response.progress, None)
        routed.response.receive(ResponseFailed(message))

    def _forget(self, routed: RoutedRequest) -> None:
        self._placed.pop(routed.number, None)
        routed.link = None
        if routed in self._pending:
            self._pending.remove(routed)


def _soonest_s(views: Sequence[ReplicaView]) -> int:
    return min(drain_s(view.situation, view.costs) for view in views)
