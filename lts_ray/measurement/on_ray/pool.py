"""The pool of measurement actors: an actor itself, on the driver's node, that a search calls.

It has one actor for each target on every node that fits the target, as nodes come and go, and keeps one rule: at most
one thing runs at a time on a physical host, be it a measurement or a validation loss, because two at once would slow
each other down; and nothing begins on the driver's host while processes of trials start there, which takes seconds. Ray
nodes on one host (a simulated cluster, containers) count as one. Who does what is decided in `dispatcher`; this is what
of it needs Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lts_ray.errors import LtsRayError
from lts_ray.measurement.measurement import Failed, Measurement
from lts_ray.measurement.on_ray.actor import LossActor, MeasurementActor, host_identity
from lts_ray.measurement.on_ray.asked_nodes import AskedNodes
from lts_ray.measurement.on_ray.dispatcher import Dispatcher
from lts_ray.measurement.on_ray.pinned_worker import DiedError, PinnedWorker, PoolStatus
from lts_ray.measurement.on_ray.selector import ClusterNode, needed_resources, place, vacancies, waiting_message
from lts_ray.measurement.outcome import Evaluation, outcome_to_json
from lts_ray.measurement.workload import Workload
from lts_ray.ray_session import has_autoscaler
from lts_ray.target import Target

logger = logging.getLogger(__name__)

LOSS = "validation loss"
"""The worker for the loss has this in place of a target's name."""
PLACEMENT_S = 8.0
"""How long to wait for held resources to come free; labels that are not there are not waited for."""
TRIAL_START_S = 30.0
"""How long a trial's process may take before it is no longer waited for."""
WATCH_S = 1.5
"""How often to look for nodes that joined or left."""


class RayProcess:
    """A Ray actor that can be started again: an `ActorProcess`."""

    def __init__(self, spawn: Callable[[], Any]) -> None:
        self._spawn, self._handle = spawn, None

    async def start(self) -> str | Failed:
        self.stop()  # frees its resources if it is only unreachable
        self._handle = self._spawn()
        host: str | Failed = await self.call("start")
        return host

    async def call(self, method: str, *arguments: object) -> Any:
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except RayTaskError as error:
            return Failed(reason=f"{type(error.cause).__name__}: {_one_line(error.cause)}")
        except RayError as error:
            raise DiedError(_one_line(error)) from None

    def stop(self) -> None:
        if self._handle is not None:
            ray.kill(self._handle)


class MeasurementPool:
    def __init__(
        self, workload: Workload, targets: tuple[Target, ...], driver_node_id: str, *, grows: bool = False
    ) -> None:
        """grows: whether the cluster's autoscaler is asked for nodes for targets that have none."""
        self._workload, self._targets, self._driver_node_id = workload, targets, driver_node_id
        self._actor = ray.remote(workload.actor_class or MeasurementActor)
        self._dispatcher, self._host = Dispatcher(clock=time.monotonic), host_identity()
        self._asked, self._grows = AskedNodes(), grows
        self._nodes: list[ClusterNode] = []
        self._watcher: asyncio.Task[None] | None = None
        self._tickets: defaultdict[str, asyncio.Future[tuple[Any, float | None]]] = defaultdict(asyncio.Future)
        self._taken: set[str] = set()  # tickets whose trials are there
        self._over: defaultdict[str, asyncio.Future[None]] = defaultdict(asyncio.Future)

    @property
    def _computes_loss(self) -> bool:
        return self._workload.blocks is not None

    async def start(self) -> Failed | None:
        """Start all actors at once. A target that has none then is a failure; the first, or None.

        Where an autoscaler may bring a node, it is waited for; what it says soon that it cannot is a failure, too.
        """
        await self._look()
        if (refused := await self._asked.refused(self._targets, within_s=PLACEMENT_S)) is not None:
            return refused
        self._watcher = asyncio.create_task(self._watch())
        workers = tuple(self._dispatcher.workers)
        await asyncio.gather(*(worker.tried.wait() for worker in workers))
        for name in (*([LOSS] if self._computes_loss else []), *(target.name for target in self._targets)):
            mine = [worker for worker in workers if worker.target == name]
            if (mine or not self._grows) and all(worker.started_s is None for worker in mine):
                problems = [f"{worker.place}: {worker.problem or 'its node left'}" for worker in mine]
                return Failed(reason=problems[0] if problems else f"target {name!r}: its nodes left")
        return None

    async def status(self) -> PoolStatus:
        workers, waiting, now_s = self._dispatcher.workers, self._dispatcher.waiting(), time.monotonic()
        placed = {worker.target for worker in workers if worker.state != "lost"}
        without = [
            waiting_message(target, self._nodes, waiting=waiting[target.name], local_node_id=self._driver_node_id)
            + ("; the cluster's autoscaler is asked for one" if self._asked.waits_for(target) else "")
            for target in self._targets
            if target.name not in placed
        ]
        problems = [f"{worker.place}: {worker.problem}" for worker in workers if worker.problem]
        return PoolStatus(workers=tuple(worker.status(now_s) for worker in workers), messages=(*without, *problems))

    async def evaluate(self, candidate: Any, loss: float | None = None) -> Evaluation | Failed:
        """The loss, unless it is given, then the measurements on all targets; the first failure stands for all."""
        if loss is None:
            if not self._computes_loss:
                raise LtsRayError("this pool computes no loss: give the candidate's own, or text to compute it on")
            computed: float | Failed = await self._dispatcher.run(LOSS, "loss", candidate)
            if isinstance(computed, Failed):
                return Failed(reason=f"the {LOSS}: {computed.reason}")
            loss = computed
        if not isfinite(loss):
            return Failed(reason=f"its loss is {loss}")
        names = [target.name for target in self._targets]
        results: list[Measurement | Failed] = await asyncio.gather(
            *(self._dispatcher.run(name, "measure", candidate) for name in names)
        )
        measurements: dict[str, Measurement] = {}
        for name, result in zip(names, results, strict=True):
            if isinstance(result, Failed):
                return Failed(reason=f"target {name!r}: {result.reason}")
            measurements[name] = result
        return Evaluation(loss=loss, measurements=measurements)

    async def offer(self, ticket: str, candidate: Any | None, loss: float | None = None) -> None:
        """What `take` of this ticket evaluates; None: there is nothing to evaluate, or nothing to wait for any more."""
        if candidate is None:
            self._over[ticket].set_result(None)
            self._dispatcher.release(self._host, ticket)
        else:
            if ticket not in self._taken:  # its trial's process starts
                self._dispatcher.hold(self._host, ticket)
                release = self._dispatcher.release
                asyncio.get_running_loop().call_later(TRIAL_START_S, release, self._host, ticket)
            self._tickets[ticket].set_result((candidate, loss))

    async def take(self, ticket: str) -> str | None:
        """Wait for the ticket's candidate and evaluate it; the outcome as JSON. None where it is over before."""
        self._taken.add(ticket)
        self._dispatcher.release(self._host, ticket)
        outcome = asyncio.create_task(self._outcome(ticket))
        await asyncio.wait((outcome, self._over[ticket]), return_when=asyncio.FIRST_COMPLETED)
        return await outcome if outcome.done() else None

    async def _outcome(self, ticket: str) -> str:
        return json.dumps(outcome_to_json(await self.evaluate(*await self._tickets[ticket])))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._look()
            except Exception as error:  # Ray's head may be busy: the next look is soon
                logger.warning("could not look for nodes: %s", _one_line(error))

    async def _look(self) -> None:
        """Workers for nodes that joined, none for nodes that left; also starts again what failed some time ago."""
        self._nodes = await asyncio.to_thread(cluster_nodes)
        there = {node.node_id for node in self._nodes}
        for worker in self._dispatcher.workers:
            if worker.state != "lost" and worker.node.node_id not in there:
                self._dispatcher.drop(worker)
        taken = {(worker.target, worker.node.node_id) for worker in self._dispatcher.workers}
        here = self._driver_node_id
        for node in self._nodes:
            if self._computes_loss and node.node_id == here and (LOSS, here) not in taken:
                self._dispatcher.add(self._loss_worker(node))
        of_targets = {(name, node_id) for name, node_id in taken if name != LOSS}
        for target, node in vacancies(self._targets, self._nodes, taken=of_targets, local_node_id=here):
            self._dispatcher.add(self._worker(target, node))
        if self._grows:
            placed = {worker.target for worker in self._dispatcher.workers if worker.state != "lost"}
            self._asked.ask([each for each in self._targets if not (each.local or each.name in placed)])
        self._dispatcher.dispatch()

    def _worker(self, target: Target, node: ClusterNode) -> PinnedWorker:
        needed = needed_resources(target)
        gpus, cpus = needed.pop("GPU", 0), needed.pop("CPU", 0)
        actor = self._actor.options(num_cpus=cpus, num_gpus=gpus, resources=needed, **_only_on(node))
        process = RayProcess(lambda: actor.remote(target, self._workload.source, self._workload.payload))
        return PinnedWorker(target=target.name, label=f"target {target.name!r}", node=node, process=process)

    def _loss_worker(self, node: ClusterNode) -> PinnedWorker:
        actor, work = ray.remote(LossActor).options(num_cpus=0, **_only_on(node)), self._workload
        process = RayProcess(lambda: actor.remote(work.source, work.payload, work.blocks))
        return PinnedWorker(target=LOSS, label=f"the {LOSS}", node=node, process=process)


def start_pool(workload: Workload, targets: tuple[Target, ...]) -> Any:
    """Start the pool on the driver's node and return its handle.

    Raises LtsRayError within ten seconds when a target has no node, and later when an actor cannot start, or when the
    cluster's autoscaler has no node for a target.
    """
    here, grows = ray.get_runtime_context().get_node_id(), has_autoscaler()
    wait_for_nodes([target for target in targets if target.local or not grows], local_node_id=here)
    payload, blocks = (None if value is None else ray.put(value) for value in (workload.payload, workload.blocks))
    pool = (
        ray.remote(MeasurementPool)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
        .remote(replace(workload, payload=payload, blocks=blocks), targets, here, grows=grows)
    )
    failure = ray.get(pool.start.remote())
    if failure is not None:
        ray.kill(pool)
        raise LtsRayError(failure.reason)
    return pool


def wait_for_nodes(targets: Sequence[Target], *, local_node_id: str) -> None:
    deadline = time.monotonic() + PLACEMENT_S
    while (problem := place(targets, cluster_nodes(), local_node_id=local_node_id)) is not None:
        if time.monotonic() > deadline:
            raise LtsRayError(problem)
        time.sleep(0.5)


def cluster_nodes() -> list[ClusterNode]:
    available = available_resources_per_node()
    return [
        ClusterNode(
            node_id=node["NodeID"],
            labels=node["Labels"],
            resources=node["Resources"],
            available=available.get(node["NodeID"], {}),
            address=node["NodeManagerAddress"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _only_on(node: ClusterNode) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=False)}


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
