"""Replicas of a fleet without Ray: an engine in each of some processes, which have their shares of a core."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from time import time
from typing import Any, Literal

from benchmarks.load.fleet_folder import FleetKind
from benchmarks.load.kept_steps import KeptSteps, TakenStep
from benchmarks.load.local_model import LoadCapacity, LocalModel, running
from benchmarks.load.slowed_process import slowed
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.autoscaling.fleet_state import ReplicaLoad
from serve.autoscaling.recent_load import WINDOW_S
from serve.engine.rehearsal import rehearse
from serve.fleet.fleet_engine import Fleet
from serve.fleet.load_observer import LoadObserver
from serve.fleet.replica_card import ReplicaCard
from serve.fleet.replica_registry import ReplicaAddress
from serve.fleet.replica_server import ReplicaServer
from serve.policies.deadline import DeadlinePolicy
from serve.routing.router import Router

REHEARSAL_S = 2.0
CONNECT_S = 600.0
"""Only a hang reaches it."""
END_S = 5.0
ATTAINMENT, DRAIN_S = 0.99, 60.0
"""The share of budgets that replicas say that they keep, and what their requests get to end: the endpoint's defaults.
"""


@dataclass(frozen=True, kw_only=True)
class ReplicaOrder:
    id: str
    kind: FleetKind
    model: Path
    frontier: Path | None
    target: str | None
    capacity: LoadCapacity
    calibration_s: float
    costs: StepCosts | None = None
    """Of its steps; None: to be measured."""
    worst_loss: float | None = None
    """The wanted quality, of what it says that it bears."""
    window_s: float = WINDOW_S
    """For so long it counts its load."""


class ReplicaProcess:
    """Begins at once; `wait` for it. Its share of a core counts from when the model is loaded."""

    def __init__(self, order: ReplicaOrder) -> None:
        self.order = order
        self._stack = ExitStack()
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=run_replica, args=(order, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> tuple[ReplicaAddress, StepCosts]:
        """Where it is, and what its steps cost, serving included. Raises LtsRayError where it has ended."""
        try:
            self._pipe.recv()
            assert self._process.pid is not None
            self._stack.enter_context(slowed(self._process.pid, self.order.kind.speed))
            self._pipe.send(None)
            address, costs = self._pipe.recv()
        except (EOFError, OSError):
            raise LtsRayError(f"the process of replica {self.order.id} has ended; see what it printed") from None
        return address, costs

    def ask(self, what: Literal["steps", "load", "drain"]) -> Any:
        """See ReplicaProcesses, which says what each is."""
        self._pipe.send(what)
        return self._pipe.recv()

    def end(self, *, at_once: bool = False) -> None:
        """at_once: SIGKILL."""
        if at_once:
            self._process.kill()
        self._pipe.close()  # by which it knows
        self._process.join(END_S)
        self._process.kill()
        self._process.join()
        self._stack.close()


class ReplicaProcesses:
    """The fleet's registry, too."""

    def __init__(self, orders: Sequence[ReplicaOrder]) -> None:
        self.costs: dict[str, StepCosts] = {}
        """By kind, as its first replica has learned them."""
        self._known: dict[str, ReplicaAddress] = {}
        self._processes = {order.id: ReplicaProcess(order) for order in orders}

    def wait(self) -> None:
        """One after the other is measured."""
        for process in self._processes.values():
            address, costs = process.wait()
            self.put(address)
            self.costs.setdefault(address.kind, costs)

    def steps(self) -> dict[str, list[TakenStep]]:
        """All that each replica's engine has run, the rehearsal's included."""
        return {id: process.ask("steps") for id, process in self._processes.items()}

    def loads(self, ids: Sequence[str]) -> dict[str, ReplicaLoad]:
        """As replicas on Ray tell of themselves."""
        return {id: self._processes[id].ask("load") for id in ids}

    def kill(self, id: str) -> None:
        """What it has on its way is gone."""
        self.remove(id)
        self._processes[id].end(at_once=True)

    def restart(self, id: str) -> None:
        self.add(self._processes[id].order)

    def add(self, order: ReplicaOrder) -> None:
        """Its steps cost what others of the kind have learned. Takes some seconds."""
        process = self._processes[order.id] = ReplicaProcess(replace(order, costs=self.costs[order.kind.name]))
        self.put(process.wait()[0])

    def leave(self, id: str) -> None:
        """Takes as long as its requests, unless these go elsewhere."""
        self._processes[id].ask("drain")
        self.remove(id)
        self._processes.pop(id).end()

    def end(self) -> None:
        for process in self._processes.values():
            process.end()

    def put(self, address: ReplicaAddress) -> None:
        self._known[address.id] = address

    def remove(self, id: str) -> None:
        self._known.pop(id, None)

    def read(self) -> Sequence[ReplicaAddress]:
        return [replace(address, at_s=time()) for address in list(self._known.values())]

    @asynccontextmanager
    async def fleet(self, router: Router, model: LocalModel) -> AsyncIterator[Fleet]:
        """An ingress of its own, connected to all."""
        fleet = Fleet(
            config=model.config,
            menu=model.menu,
            capacity=model.capacity,
            router=router,
            registry=self,
            fingerprint=model.fingerprint,
        )
        await fleet.start()
        try:
            async with asyncio.timeout(CONNECT_S):
                while sum(fleet.load().replicas.values()) < len(self._known):
                    await asyncio.sleep(0.02)
            yield fleet
        finally:
            await fleet.stop()


@contextmanager
def replica_processes(orders: Sequence[ReplicaOrder]) -> Iterator[ReplicaProcesses]:
    processes = ReplicaProcesses(orders)
    try:
        processes.wait()
        yield processes
    finally:
        processes.end()


def run_replica(order: ReplicaOrder, pipe: Connection) -> None:
    """In the replica's process, until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all
    model = LocalModel(order.model, capacity=order.capacity, threads=1, frontier=order.frontier, target=order.target)
    model.runtime  # noqa: B018  (at full speed)
    pipe.send(None)
    pipe.recv()
    costs = model.calibrate(order.calibration_s) if order.costs is None else order.costs
    times = KeptSteps(costs)
    if order.costs is None:
        rehearse(model.engine(costs=times, policy=DeadlinePolicy()), seconds=REHEARSAL_S)
    asyncio.run(_serve(order, pipe, model, times))


async def _serve(order: ReplicaOrder, pipe: Connection, model: LocalModel, times: KeptSteps) -> None:
    menu = model.menu
    card = ReplicaCard(
        id=order.id,
        kind=order.kind.name,
        cost=order.kind.speed,
        costs=times.costs,
        universal=menu.universal,
        named=menu.named,
        elastic=menu.elastic,
        capacity=model.capacity,
        n_blocks=model.capacity.n_blocks,
    )
    observer = LoadObserver(window_s=order.window_s)
    with running(model.engine(costs=times, policy=DeadlinePolicy(), observer=observer)) as engine:
        server = ReplicaServer(engine, card, times=times)
        address = ReplicaAddress(
            id=order.id,
            kind=order.kind.name,
            fingerprint=model.fingerprint,
            host="127.0.0.1",
            port=await server.start("127.0.0.1"),
            secret=server.secret,
            at_s=time(),
        )
        pipe.send((address, times.costs))
        with suppress(EOFError):  # its end
            while await asyncio.to_thread(pipe.poll, None):
                match pipe.recv():
                    case "steps":
                        pipe.send(list(times.steps))
                    case "load":
                        pipe.send(observer.load(engine, attainment=ATTAINMENT, worst_loss=order.worst_loss))
                    case "drain":
                        await server.drain(DRAIN_S)
                        pipe.send(None)
        await server.stop()
        await asyncio.sleep(0.05)  # its connections' tasks see their ends
