"""The pool of measurement actors: an actor itself, on the driver's node, that every trial calls.

It keeps one rule: at most one thing runs at a time on a physical host, be it a measurement or a validation loss,
because two at once would slow each other down. Ray nodes on one host (a simulated cluster, containers) count as one.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.measurement.actor import LossActor, MeasurementActor
from lts_ray.measurement.cost_model import StepCostModel
from lts_ray.measurement.evaluation import Evaluation
from lts_ray.measurement.measure import Failed, Measurement
from lts_ray.measurement.selector import Node, needed_resources, place
from lts_ray.measurement.target import Target
from lts_ray.models.config import MatFormerConfig

PLACEMENT_S = 8.0
"""How long to wait for held resources to come free; labels that are not there are not waited for."""
START_S = 90.0
"""How long a placed actor's process may take to import torch and build the model."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the actors need. References, not values: the model crosses the network once per node.

    weights, blocks: Ray object references. blocks: None where the loss is minus the decoder parameters.
    """

    config: MatFormerConfig
    weights: Any
    blocks: Any | None
    targets: tuple[Target, ...]
    actor_class: type = MeasurementActor


@dataclass(kw_only=True)
class Seat:
    """A running actor, how to start it again, and the host it is on."""

    name: str
    spawn: Callable[[], Any]
    handle: Any = None
    host: str = ""


class MeasurementPool:
    def __init__(self, workload: Workload, driver_node_id: str) -> None:
        self._workload = workload
        self._hosts: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        here = {"scheduling_strategy": NodeAffinitySchedulingStrategy(driver_node_id, soft=False)}
        self._seats = {
            target.name: Seat(name=f"target {target.name!r}", spawn=self._spawner(target, here))
            for target in workload.targets
        }
        self._loss: Seat | None = None
        if workload.blocks is not None:
            remote = ray.remote(LossActor).options(num_cpus=0, **here)
            arguments = (workload.config, workload.weights, workload.blocks)
            self._loss = Seat(name="the validation loss", spawn=lambda: remote.remote(*arguments))

    def _spawner(self, target: Target, here: dict[str, Any]) -> Callable[[], Any]:
        needed = needed_resources(target)
        gpus, cpus = needed.pop("GPU", 0), needed.pop("CPU", 0)
        where = here if target.local else {"label_selector": dict(target.label_selector)}
        remote = ray.remote(self._workload.actor_class).options(num_cpus=cpus, num_gpus=gpus, resources=needed, **where)
        return lambda: remote.remote(target, self._workload.config, self._workload.weights)

    async def start(self) -> Failed | None:
        """Start all actors at once; the first failure, or None."""
        seats = [*self._seats.values(), *([self._loss] if self._loss else [])]
        failures = await asyncio.gather(*(self._start(seat) for seat in seats))
        return next((each for each in failures if each is not None), None)

    async def hosts(self) -> int:
        """How many physical hosts take part."""
        return len({seat.host for seat in self._seats.values()})

    async def calibrate(self, seconds: float) -> dict[str, StepCostModel | Failed]:
        models = await asyncio.gather(
            *(self._call(seat, lambda handle: handle.calibrate.remote(seconds)) for seat in self._seats.values())
        )
        return dict(zip(self._seats, models, strict=True))

    async def evaluate(self, submodel: Submodel) -> Evaluation | Failed:
        """The loss, then the measurements on all targets; the first failure of them stands for all."""
        loss = await self._loss_of(submodel)
        if isinstance(loss, Failed):
            return loss
        seats = list(self._seats.items())
        results: list[Measurement | Failed] = await asyncio.gather(
            *(self._call(seat, lambda handle: handle.measure.remote(submodel)) for _, seat in seats)
        )
        measurements: dict[str, Measurement] = {}
        for (name, seat), result in zip(seats, results, strict=True):
            if isinstance(result, Failed):
                return Failed(reason=f"{seat.name}: {result.reason}")
            measurements[name] = result
        return Evaluation(loss=loss, measurements=measurements)

    async def _loss_of(self, submodel: Submodel) -> float | Failed:
        if self._loss is None:
            return -float(self._workload.config.decoder_params(submodel))
        loss: float | Failed = await self._call(self._loss, lambda handle: handle.loss.remote(submodel))
        return loss

    async def _call(self, seat: Seat, call: Callable[[Any], Any]) -> Any:
        """Run `call` on the seat's actor with the host to itself. An actor that died is started again, once."""
        restarted = False
        while True:
            host = seat.host
            async with self._hosts[host]:
                if seat.host != host:
                    continue  # started again elsewhere while this waited for its turn
                try:
                    return await call(seat.handle)
                except RayActorError as error:
                    if restarted:
                        return Failed(reason=f"its actor died twice: {_first_line(error)}")
                restarted = True
                failure = await self._start(seat)
                if failure is not None:
                    return failure

    async def _start(self, seat: Seat) -> Failed | None:
        if seat.handle is not None:
            ray.kill(seat.handle)  # frees its resources if it is only unreachable
        seat.handle = seat.spawn()
        try:
            host = await asyncio.wait_for(seat.handle.start.remote(), START_S)
        except TimeoutError:
            return Failed(reason=f"{seat.name}: its actor did not start within {START_S:.0f} s; is its node still up?")
        except RayActorError as error:
            return Failed(reason=f"{seat.name}: its actor died at the start: {_first_line(error)}")
        if isinstance(host, Failed):
            return Failed(reason=f"{seat.name}: {host.reason}")
        seat.host = host
        return None


def start_pool(workload: Workload) -> Any:
    """Start the pool on the driver's node and return its handle.

    Raises LtsRayError within ten seconds when a target has no node, and later when an actor cannot start.
    """
    here = ray.get_runtime_context().get_node_id()
    wait_for_nodes(workload.targets, local_node_id=here)
    pool = (
        ray.remote(MeasurementPool)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
        .remote(workload, here)
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


def cluster_nodes() -> list[Node]:
    available = available_resources_per_node()
    return [
        Node(
            node_id=node["NodeID"],
            labels=node["Labels"],
            resources=node["Resources"],
            available=available.get(node["NodeID"], {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
