"""Replicas in processes of their own that come and go by an autoscaler's word, while a load is played to them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from benchmarks.load.clients import engine_client, replay_load
from benchmarks.load.local_model import LocalModel
from benchmarks.load.replica_processes import ReplicaOrder, ReplicaProcesses, replica_processes
from lts_ray.record import record_json
from lts_ray.runtime.step_costs import StepCosts
from serve.autoscaling.autoscaler import Autoscaler
from serve.autoscaling.fleet_state import FleetState, KindState
from serve.autoscaling.named_autoscalers import AUTOSCALERS, autoscaler_named
from serve.autoscaling.recent_load import WINDOW_S
from serve.routing.budget_router import BudgetRouter
from serve.simulate.fleet_run import FleetDecision, FleetRun
from serve.simulate.request_outcome import Outcome
from serve.traffic.arrival import Arrival
from serve.traffic.load import make_prompts

LEAST, MOST = 1, 3
"""Replicas."""
TICK_S, SHORTER = 2.0, 6.0
"""The autoscaler is asked so often; and all else that it counts in seconds is so much shorter, as the loads are."""


class ScaledProcesses:
    """Of one kind. The newest leave first, as with the endpoint by draining; one that is coming comes in any case."""

    def __init__(
        self, processes: ReplicaProcesses, order: ReplicaOrder, autoscaler: Autoscaler, *, start_s: float
    ) -> None:
        """processes: the first, which serve. order: of each that comes, but for its id. start_s: of the first."""
        self._processes, self._order, self._autoscaler, self._start_s = processes, order, autoscaler, start_s
        self._serving = [address.id for address in processes.read()]
        self._target = self._ever = len(self._serving)
        self._coming, self._gone_s, self._begin_s = 0, 0.0, monotonic()
        self._asked_s = dict.fromkeys(self._serving, self._begin_s)
        self._decisions: list[FleetDecision] = []

    async def play(self, arrivals: Sequence[Arrival], *, model: LocalModel, seed: int) -> FleetRun:
        """By the client's clock; it has no places. Replicas cost until the last answer. Only once."""
        prompts = list(make_prompts(arrivals, seed=seed, vocab_size=model.config.vocab_size))
        outcomes: dict[int, Outcome] = {}
        try:
            async with self._processes.fleet(BudgetRouter(), model) as fleet, asyncio.TaskGroup() as changes:
                self._begin_s = monotonic()
                self._asked_s = dict.fromkeys(self._serving, self._begin_s)
                scaling = changes.create_task(self._keep_scaling(changes))
                ask = engine_client(fleet, by_client=True)
                await replay_load(ask, arrivals, prompts, clock=fleet.clock, ended=outcomes.__setitem__)
                scaling.cancel()
                here_s = sum(monotonic() - asked_s for asked_s in self._asked_s.values())
                hours = (self._gone_s + here_s) / 3600
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return FleetRun(
            outcomes=tuple([outcomes[number] for number in range(len(arrivals))]),
            places=(),
            decisions=tuple(self._decisions),
            replica_hours={self._order.kind.name: hours},
            cost=hours * self._order.kind.speed,
        )

    async def _keep_scaling(self, changes: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            state = await self._state()
            scaling, before = self._autoscaler.decide(state), self._target
            self._target = scaling.targets[self._order.kind.name]
            if self._target != before:
                at_s = state.now_s - self._begin_s
                self._decisions.append(FleetDecision(at_s=at_s, targets=scaling.targets, reason=scaling.reason))
            for _ in range(self._target - len(self._serving) - self._coming):
                changes.create_task(self._come())
            for id in self._serving[self._target :]:
                changes.create_task(self._leave(id))

    async def _state(self) -> FleetState:
        kind = KindState(
            name=self._order.kind.name,
            min_replicas=LEAST,
            max_replicas=MOST,
            cost_per_hour=self._order.kind.speed,
            start_s=self._start_s,
            target=self._target,
            replicas=await asyncio.to_thread(self._processes.loads, list(self._serving)),
        )
        return FleetState(now_s=monotonic(), kinds=(kind,))

    async def _come(self) -> None:
        asked_s, id = monotonic(), f"{self._order.kind.name}-{self._ever}"
        self._asked_s[id] = asked_s
        self._ever += 1
        self._coming += 1
        await asyncio.to_thread(self._processes.add, replace(self._order, id=id))
        self._start_s = monotonic() - asked_s
        self._coming -= 1
        self._serving.append(id)

    async def _leave(self, id: str) -> None:
        self._serving.remove(id)
        await asyncio.to_thread(self._processes.leave, id)
        self._gone_s += monotonic() - self._asked_s.pop(id)


def hastened_autoscaler(name: str, **settings: float) -> Autoscaler:
    """Raises LtsRayError as autoscaler_named does."""
    known = record_json(AUTOSCALERS[name][1]()) if name in AUTOSCALERS else {}
    shorter = {key: value / SHORTER for key, value in known.items() if key.endswith("_s")}
    faster = {key: value * SHORTER for key, value in known.items() if key == "learning"}  # in a second
    return autoscaler_named(name, **(shorter | faster | settings))


def measured_costs(order: ReplicaOrder) -> StepCosts:
    """As a replica learns them before it serves."""
    with replica_processes([order]) as processes:
        return processes.costs[order.kind.name]


def play_scaled(
    arrivals: Sequence[Arrival],
    *,
    order: ReplicaOrder,
    model: LocalModel,
    autoscaler: Autoscaler,
    first: int = LEAST,
    seed: int,
) -> FleetRun:
    """order: with costs. first: so many serve from the beginning. Raises LtsRayError where a process does not come."""
    order, began_s = replace(order, window_s=WINDOW_S / SHORTER), monotonic()
    with replica_processes([replace(order, id=f"{order.kind.name}-{number}") for number in range(first)]) as processes:
        scaled = ScaledProcesses(processes, order, autoscaler, start_s=monotonic() - began_s)
        return asyncio.run(scaled.play(arrivals, model=model, seed=seed))
