"""A fleet within one event loop: replicas with tiny engines, and connections that can be stopped or cut."""

from __future__ import annotations

import asyncio
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any

from torch import Tensor

from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.runtime.runtime import Runtime
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_costs import StepCosts
from lts_ray.timing import Clock
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.fleet.fleet_engine import Fleet
from serve.fleet.replica_card import ReplicaCard
from serve.fleet.replica_registry import ReplicaAddress
from serve.fleet.replica_server import ReplicaServer
from serve.routing.budget_router import BudgetRouter
from tests.serve.models import CONFIG, COSTS, tiny_engine, tiny_menu, tiny_runtime

HANG_S = 600


@dataclass
class MemoryRegistry:
    known: dict[str, ReplicaAddress] = field(default_factory=dict)

    def put(self, address: ReplicaAddress) -> None:
        self.known[address.id] = address

    def remove(self, id: str) -> None:
        self.known.pop(id, None)

    def read(self) -> Sequence[ReplicaAddress]:
        return list(self.known.values())


class Halting:
    """A runtime that runs as many steps as it may: what happens then happens in the middle of a response."""

    def __init__(self, runtime: Runtime, steps: float) -> None:
        self._runtime, self._may, self._left = runtime, threading.Condition(), steps
        self.n_blocks, self.config, self.kept_bytes = runtime.n_blocks, runtime.config, runtime.kept_bytes
        self.device = runtime.device

    def allow(self, steps: float = inf) -> None:
        """So many more, counted from now; 0: the next one stands still."""
        with self._may:
            self._left = steps
            self._may.notify_all()

    def run(self, segments: Sequence[Segment]) -> Tensor:
        with self._may:
            self._may.wait_for(lambda: self._left > 0)
            self._left -= 1
        return self._runtime.run(segments)


class Wire:
    """Between an ingress and a replica: a network that can stop (nothing comes through, nothing is lost) or be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self.flows = asyncio.Event()
        self.flows.set()
        self._writers: set[StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.flows.set()
        self.cut()

    async def _join(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, other_writer}
        await asyncio.gather(self._pass(reader, other_writer), self._pass(other_reader, writer))

    async def _pass(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self.flows.wait()
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()


@dataclass
class TinyReplica:
    engine: Engine
    server: ReplicaServer
    wire: Wire
    runtime: Halting
    address: ReplicaAddress
    configs: list[dict[str, Any]]

    async def die(self) -> None:
        """As if its process were killed: connections break, and nobody says goodbye."""
        self.wire.close()
        self.runtime.allow()
        await self.server.stop()
        await asyncio.to_thread(self.engine.stop)


@dataclass
class TinyFleet:
    model: MatFormer
    fleet: Fleet
    registry: MemoryRegistry
    replicas: dict[str, TinyReplica] = field(default_factory=dict)

    async def add(
        self,
        name: str,
        *,
        kind: str = "small",
        cost: float = 1.0,
        costs: StepCosts = COSTS,
        fingerprint: str = "model",
        steps: float = inf,
        clock: Clock = time.monotonic,
        **settings: Any,
    ) -> TinyReplica:
        """steps: that it may run until it is allowed more. clock: its own."""
        n_blocks = settings.pop("n_blocks", 64)
        runtime = Halting(tiny_runtime(self.model, n_blocks=n_blocks), steps)
        times = LearnedTimes(costs, attainment=None, clock=clock)
        engine = tiny_engine(runtime, times=times, **settings)
        menu = engine.menu
        card = ReplicaCard(
            id=name,
            kind=kind,
            cost=cost,
            costs=costs,
            universal=menu.universal,
            named=menu.named,
            elastic=menu.elastic,
            capacity=engine.capacity,
            n_blocks=n_blocks,
        )
        configs: list[dict[str, Any]] = []
        server = ReplicaServer(engine, card, times=times, reconfigure=lambda config: configs.append(dict(config)))
        engine.start()
        wire = Wire("127.0.0.1", await server.start("127.0.0.1"))
        address = ReplicaAddress(
            id=name,
            kind=kind,
            fingerprint=fingerprint,
            host="127.0.0.1",
            port=await wire.start(),
            secret=server.secret,
            at_s=time.time(),
        )
        self.registry.put(address)
        self.replicas[name] = replica = TinyReplica(engine, server, wire, runtime, address, configs)
        return replica

    async def until(self, what: Callable[[], object]) -> None:
        """Only a hang reaches the limit."""
        async with asyncio.timeout(HANG_S):
            while not what():
                await asyncio.sleep(0.005)

    async def has(self, *names: str) -> None:
        await self.until(lambda: {link.address.id for link in self.fleet._replicas.usable()} == set(names))


@asynccontextmanager
async def tiny_fleet(model: MatFormer, **settings: Any) -> AsyncIterator[TinyFleet]:
    """Started, without a replica yet. settings: of Fleet."""
    registry = MemoryRegistry()
    given = {"router": BudgetRouter(), "fingerprint": "model", "registry": registry} | settings
    menu = tiny_menu()
    capacity = given.pop("capacity", None) or tiny_engine(tiny_runtime(model)).capacity
    tiny = TinyFleet(model, Fleet(config=CONFIG, menu=menu, capacity=capacity, **given), registry)
    await tiny.fleet.start()
    try:
        yield tiny
    finally:
        await tiny.fleet.stop()
        for replica in tiny.replicas.values():
            await replica.die()
