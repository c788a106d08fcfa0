"""A fleet's own ingress and replicas beside the simulated ones: real connections, and a clock that is set."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor

from lts_ray.models.decoder_config import DecoderConfig
from lts_ray.runtime.segment import Segment
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.engine import Engine
from serve.engine.engine_errors import QueueFullError
from serve.engine.learned_times import LearnedTimes
from serve.engine.response import Response
from serve.engine.step import Part, groups_of
from serve.fleet import replica_link, replicas
from serve.fleet.fleet_engine import Fleet
from serve.fleet.replica_card import ReplicaCard
from serve.fleet.replica_registry import ReplicaAddress
from serve.fleet.replica_server import ReplicaServer
from serve.policies.deadline import DeadlinePolicy
from serve.routing.budget_router import BudgetRouter
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import SimulatedReplica
from serve.simulate.simulate_fleet import simulate_fleet
from serve.simulate.simulated_kind import SimulatedKind
from serve.traffic.arrival import Arrival
from serve.traffic.load import make_prompts
from tests.serve.fleet.fleets import MemoryRegistry
from tests.serve.models import CONFIG
from tests.serve.simulate.test_engine_and_simulator import CAPACITY, MENU, OPTIONS, load, outcome_of

COSTS = StepCosts(grid=(1, 33), base=(5.0, 8.0), neuron=(0.05, 0.08), head=(0.5, 0.5), attended=0.002)
"""Longer than an engine keeps the tokens of streams back, to hand them over together."""
KINDS = {"fast": (COSTS, 1.0), "slow": (COSTS.scaled(2.0), 0.5)}
N_BLOCKS = 64


class SetClock:
    now_ms = 0.0

    def __call__(self) -> float:
        return self.now_ms / 1e3


class TimedReplica:
    """Its engine's steps run in a thread, one at a time, and end when they are told to."""

    n_blocks, kept_bytes = N_BLOCKS, 0

    def __init__(self, kind: str, clock: SetClock) -> None:
        self.config: DecoderConfig = CONFIG
        self._costs, cost = KINDS[kind]
        self._clock, self.ends_ms = clock, inf
        self._begun, self._goes = threading.Event(), threading.Event()
        self._thread, self._step = ThreadPoolExecutor(1), asyncio.get_running_loop().create_future()
        times = LearnedTimes(self._costs, attainment=None, clock=clock)
        self.engine = Engine(
            self,
            menu=MENU,
            times=times,
            policy=DeadlinePolicy(),
            eos_ids=frozenset(),
            capacity=CAPACITY,
            prefix_cache=False,
        )
        card = ReplicaCard(
            id=f"{kind}-0",
            kind=kind,
            cost=cost,
            costs=self._costs,
            universal=MENU.universal,
            named=MENU.named,
            elastic=MENU.elastic,
            capacity=CAPACITY,
            n_blocks=N_BLOCKS,
        )
        self.server = ReplicaServer(self.engine, card, times=times)

    async def address(self) -> ReplicaAddress:
        card, port = self.server.card, await self.server.start("127.0.0.1")
        where = {"host": "127.0.0.1", "port": port, "secret": self.server.secret, "at_s": time.time()}
        return ReplicaAddress(id=card.id, kind=card.kind, fingerprint="model", **where)  # type: ignore[arg-type]

    def run(self, segments: Sequence[Segment]) -> Tensor:
        groups = groups_of([Part(0, segment, OPTIONS[segment.submodel]) for segment in segments])
        self.ends_ms = self._clock.now_ms + self._costs.step_ms(groups)
        self._begun.set()
        self._goes.wait()
        self._goes.clear()
        return torch.zeros(sum(segment.wants_logits for segment in segments), CONFIG.vocab_size)

    async def go_on(self) -> None:
        if self.ends_ms == inf and self.engine.counts() != (0, 0):
            self._step = asyncio.get_running_loop().run_in_executor(self._thread, self.engine._step)
            await asyncio.to_thread(self._begun.wait)
            self._begun.clear()

    async def finish(self) -> None:
        self.ends_ms = inf
        self._goes.set()
        await self._step


async def played(arrivals: Sequence[Arrival]) -> tuple[list[Outcome], list[str | None]]:
    """What became of the requests, and the replica that each went to."""
    clock, registry = SetClock(), MemoryRegistry()
    timed = {f"{kind}-0": TimedReplica(kind, clock) for kind in KINDS}
    for replica in timed.values():
        registry.put(await replica.address())
    given = {"router": BudgetRouter(), "registry": registry, "fingerprint": "model", "clock": clock}
    fleet = Fleet(config=CONFIG, menu=MENU, capacity=CAPACITY, **given)  # type: ignore[arg-type]
    await fleet.start()
    responses: list[Response | None] = []
    prompts = list(make_prompts(arrivals, seed=0, vocab_size=CONFIG.vocab_size))

    async def settled() -> None:
        """All that was sent has come: the ingress and each replica count the same tokens."""
        for link in fleet._replicas:
            while link.mirror is None or sorted(each.produced for each in link.mirror._sent.values()) != sorted(
                job.produced for job in timed[link.address.id].engine.situation(0.0).jobs
            ):
                await asyncio.sleep(0.0005)

    async with asyncio.timeout(600):
        while len(fleet._replicas.usable()) < len(timed):
            await asyncio.sleep(0.005)
        while len(responses) < len(arrivals) or fleet.counts() != (0, 0):
            for replica in timed.values():
                await replica.go_on()
            coming_ms = arrivals[len(responses)].at_ms if len(responses) < len(arrivals) else inf
            clock.now_ms = min(coming_ms, *(replica.ends_ms for replica in timed.values()))
            for replica in timed.values():
                if replica.ends_ms <= clock.now_ms:
                    await replica.finish()
            await settled()
            if coming_ms <= clock.now_ms:
                try:
                    number = len(responses)
                    responses.append(fleet.submit(arrivals[number].request(prompts[number])))
                except QueueFullError:
                    responses.append(None)
                await settled()
    outcomes = [await outcome_of(*pair) for pair in zip(arrivals, responses, strict=True)]
    await fleet.stop()
    for replica in timed.values():
        await replica.server.stop()
    await asyncio.sleep(0.05)  # its connections' tasks see their ends
    return outcomes, [None if each is None else each.progress.places[0].replica for each in responses]


@pytest.mark.parametrize(("trace", "rate"), [("gamma-4", 6.0), ("ramp", 14.0)])
def test_the_simulated_fleet_sends_every_request_where_the_ingress_sends_it(
    trace: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives it the same times and widths there; where queues are full, too."""
    for module, name in ((replica_link, "SUSPECT_S"), (replicas, "SILENT_S"), (replicas, "CUT_S")):
        monkeypatch.setattr(module, name, inf)  # between two steps the set clock jumps
    arrivals = load(trace, rate, costs=COSTS)
    real, places = asyncio.run(played(arrivals))
    kinds = [
        SimulatedKind(
            name=name,
            cost_per_hour=cost,
            node=SimulatedReplica(menu=MENU, costs=costs, capacity=CAPACITY, n_blocks=N_BLOCKS),
            replicas=1,
            min_replicas=1,
            max_replicas=1,
        )
        for name, (costs, cost) in KINDS.items()
    ]
    rng = np.random.default_rng(0)
    run = simulate_fleet(arrivals, kinds=kinds, router=BudgetRouter(), policy=DeadlinePolicy, rng=rng)
    assert set(places) - {None} == {"fast-0", "slow-0"}
    assert (None in places) == (trace == "ramp")
    assert list(run.places) == places
    for ours, theirs in zip(run.outcomes, real, strict=True):
        assert (ours.status, ours.submodels) == (theirs.status, theirs.submodels)
        if ours.timing is not None and theirs.timing is not None:
            assert asdict(ours.timing) == pytest.approx(asdict(theirs.timing), abs=1e-6)
