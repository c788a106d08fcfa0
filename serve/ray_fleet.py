"""The Ray Serve application of a fleet: a deployment for each kind of node, behind one that has the routes.

The routes' deployment holds no weights and takes no part in a step: an answer's tokens come to it over a connection of
its own to the replica. Ray places replicas, watches them, and rolls them out.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from time import monotonic, sleep, time
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle
from ray.util import get_node_ip_address

from lts_ray.checkpoints.model_tokenizer import load_model_tokenizer
from lts_ray.errors import LtsRayError
from lts_ray.record import read_record, record_json
from serve.fleet.load_observer import LoadObserver
from serve.fleet.node_kind import INGRESS, NodeKind
from serve.fleet.replica_card import ReplicaCard
from serve.fleet.replica_registry import DEAD_S, REFRESH_S, Registry, ReplicaAddress
from serve.fleet.replica_server import ReplicaServer
from serve.ingress import build_fleet, fleet_fingerprint, fleet_menu
from serve.metrics.fleet_metrics import FleetMetrics
from serve.metrics.ray_metrics import RayMetrics
from serve.metrics.ray_shared_metrics import RaySharedMetrics
from serve.ray_deployment import MAX_ONGOING_REQUESTS, actor_options, check_kinds, log_to_stderr
from serve.ray_proxies import mend, mend_proxies
from serve.ray_registry import RayRegistry
from serve.ray_scaling import JOBS, follow_jobs
from serve.replica import build_replica
from serve.routes import Routes
from serve.serve_args import ServeArgs
from serve.user_config import UserConfig

logger = logging.getLogger(__name__)

LEAVE_S = 10.0
"""What a replica gets to leave in, beyond the time in which its requests may end."""
WAKE_S = 1.0
"""How often an ingress looks whether a kind without replicas should have one."""
SAY_S = 5.0
"""After so long an ingress says what it waits for."""
QUIET = {"enable_access_log": False}
"""serve.http.access_log writes a line a request, and says more."""


class KindReplica:
    """An engine, and the server that ingresses connect to. Its event loop is the one that constructs it."""

    def __init__(self, args: ServeArgs, kind: str, cost: float) -> None:
        log_to_stderr()
        context, labels = serve.get_replica_context(), ray.get_runtime_context().get_node_labels()
        self._drain_s, self._registry = args.drain_s, RayRegistry(context.app_name)
        self._replica = replica = build_replica(
            args, labels, observer=lambda name: RayMetrics(model_name=name, node=kind), load=(load := LoadObserver())
        )
        engine, menu = replica.engine, replica.engine.menu
        worst_loss = None if args.quality_floor is None else menu.floor(args.quality_floor)
        self._load = partial(load.load, engine, attainment=args.attainment, worst_loss=worst_loss)
        card = ReplicaCard(
            id=context.replica_tag,
            kind=kind,
            cost=cost,
            costs=engine.costs,
            universal=menu.universal,
            named=menu.named,
            elastic=menu.elastic,
            capacity=engine.capacity,
            n_blocks=replica.n_blocks,
        )
        self._server = ReplicaServer(engine, card, times=replica.times, reconfigure=replica.reconfigure)
        self._metrics = RaySharedMetrics.of_this_replica(replica.metrics, engine.load, args.served_name, node=kind)
        self._metrics.start()
        self._serving = asyncio.get_running_loop().create_task(self._serve(fleet_fingerprint(args)))

    async def _serve(self, fingerprint: str) -> None:
        """Be there to be found, until the task is cancelled."""
        host, card = get_node_ip_address(), self._server.card
        port = await self._server.start(host)
        address = ReplicaAddress(
            id=card.id,
            kind=card.kind,
            fingerprint=fingerprint,
            host=host,
            port=port,
            secret=self._server.secret,
            at_s=0,
        )
        while True:
            try:
                await asyncio.to_thread(self._registry.put, replace(address, at_s=time()))
            except Exception as error:  # those that know it go on
                logger.warning("this replica cannot say where it is: %s", error)
            await asyncio.sleep(REFRESH_S)

    def wake(self) -> None:
        """A call waits for a replica of this kind: it is to come up."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        """A number each, without which Ray stops to ask: what autoscaling knows of this replica."""
        load = asdict(self._load())
        return {JOBS: load["running"] + load["waiting"], **load}

    def check_health(self) -> None:
        self._replica.engine.check()
        if self._serving.done():
            self._serving.result()

    async def __del__(self) -> None:
        """Ray calls it at once, since no request is Ray's own, and kills the process when it has taken too long."""
        if (serving := getattr(self, "_serving", None)) is None:  # the constructor failed
            return
        await self._server.drain(self._drain_s)
        serving.cancel()
        await asyncio.to_thread(self._registry.remove, self._server.card.id)
        await self._server.stop()
        await asyncio.to_thread(self._replica.engine.stop)
        await asyncio.to_thread(self._metrics.stop)


@serve.ingress()
class FleetIngress:
    """The routes. Everything belongs to the event loop that constructs it, which serves the requests too."""

    def __init__(
        self, args: ServeArgs, kinds: Sequence[NodeKind], handles: Mapping[str, DeploymentHandle[Any]]
    ) -> None:
        log_to_stderr()
        mend()  # where HAProxy stands in front, this process accepts the connections
        self._kinds, self._handles = kinds, handles
        self._slots = {kind.name: args.slots_of(kind) for kind in kinds}
        registry, fingerprint = RayRegistry(serve.get_replica_context().app_name), fleet_fingerprint(args)
        metrics = FleetMetrics(model_name=args.served_name, kinds=[kind.name for kind in kinds])
        self._fleet = fleet = build_fleet(args, fingerprint, registry, metrics)
        tokenizer = load_model_tokenizer(args.model, vocab_size=fleet.config.vocab_size)
        self._routes = Routes.around(fleet, args, tokenizer)
        if any(kind.min_replicas for kind in kinds):
            _wait_for_replica(registry, fingerprint, args, kinds)  # until then an older version goes on
        self._metrics = RaySharedMetrics.of_this_replica(metrics, fleet.load, args.served_name)
        self._metrics.start()
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """Kinds that have no replica get one while there is more to do than all others have room for."""
        await self._fleet.start()
        asleep = [kind.name for kind in self._kinds if not kind.min_replicas]
        while asleep:
            await asyncio.sleep(WAKE_S)
            there = self._fleet.load().replicas
            if sum(self._fleet.counts()) > sum(self._slots.get(kind, 0) * count for (kind, _), count in there.items()):
                for name in set(asleep) - {kind for kind, _ in there} - self._waking.keys():
                    self._waking[name] = asyncio.create_task(self._wake(name))

    async def _wake(self, kind: str) -> None:
        try:
            await self._handles[kind].wake.remote()  # Ray begins from none where a call waits
        except Exception as error:
            logger.warning("kind %s could not be woken: %s", kind, error)
        del self._waking[kind]

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray's proxy adds the request's id to every answer."""
        return self._routes.app(self._metrics.exposition, answers_request_id=False)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """For all replicas. A config that does not fit changes nothing, as in serve.app.ElasticServer."""
        try:
            config = read_record(UserConfig, user_config, what="user_config")
            config.build()
        except LtsRayError as error:
            logger.error("user_config is not taken over: %s", error)
        else:
            self._fleet.use_config(record_json(config))

    async def check_health(self) -> None:
        """It lives where no replica does, too: those come up again."""
        if self._running.done():
            self._running.result()
        await mend_proxies()

    async def __del__(self) -> None:
        """Its requests have ended, or had the time to."""
        if (metrics := getattr(self, "_metrics", None)) is None:  # the constructor failed
            return
        for task in (self._running, *self._waking.values()):
            task.cancel()
        await self._fleet.stop()
        await asyncio.to_thread(metrics.stop)


def _wait_for_replica(registry: Registry, fingerprint: str, args: ServeArgs, kinds: Sequence[NodeKind]) -> None:
    say_s = monotonic() + SAY_S
    while not any(each.fingerprint == fingerprint and each.at_s > time() - DEAD_S for each in registry.read()):
        if monotonic() > say_s:
            say_s = float("inf")
            try:
                waiting = check_kinds(kinds, _options(args, kinds))
            except LtsRayError as error:  # `serve run` builds before it knows the nodes
                waiting = [str(error)]
            for line in waiting:
                logger.error("%s", line)
        sleep(0.5)


def _options(args: ServeArgs, kinds: Sequence[NodeKind]) -> list[dict[str, Any]]:
    """Of each kind's replicas."""
    frontier = args.read_frontier()
    assert frontier is not None, "kinds need one"
    return [actor_options(args.of_kind(kind), frontier.targets[kind.target_name]) for kind in kinds]


def fleet_application(args: ServeArgs, kinds: Sequence[NodeKind]) -> Application:
    """Raises LtsRayError for arguments, files or kinds that cannot be served."""
    args.check()
    if args.quality_floor is not None:
        fleet_menu(args)[1].floor(args.quality_floor)
    options = _options(args, kinds)
    for line in check_kinds(kinds, options):
        print(f"warning: {line}", file=sys.stderr)
    replicas = {}
    for kind, placed in zip(kinds, options, strict=True):
        deployment = serve.deployment(
            KindReplica,
            name=kind.name,
            **_counts(args, kind),
            ray_actor_options=placed,
            max_surge_percent=100,
            graceful_shutdown_timeout_s=args.drain_s + LEAVE_S,
            logging_config=QUIET,
        )
        own = replace(args.of_kind(kind), num_replicas=1, autoscaling_config=None)  # other bounds roll nothing out
        replicas[kind.name] = deployment.bind(own, kind.name, kind.cost_per_hour)
    ingress = serve.deployment(
        FleetIngress,
        name=INGRESS,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        # Where the head is: without that all is lost anyhow, and so no other node's loss takes the ingress.
        ray_actor_options={"num_cpus": 0, "resources": {HEAD_NODE_RESOURCE_NAME: 0.001}},
        user_config=record_json(UserConfig(policy=args.policy)),
        max_surge_percent=100,
        graceful_shutdown_timeout_s=args.drain_s,
        logging_config=QUIET,
    )
    built: Application = ingress.bind(args, kinds, replicas)
    return built


def _counts(args: ServeArgs, kind: NodeKind) -> dict[str, Any]:
    if kind.min_replicas == kind.most:
        return {"num_replicas": kind.most}
    config = AutoscalingConfig(
        min_replicas=kind.min_replicas,
        max_replicas=kind.most,
        target_ongoing_requests=args.slots_of(kind),
        policy=AutoscalingPolicy(policy_function=follow_jobs),
    )
    return {"autoscaling_config": config}
