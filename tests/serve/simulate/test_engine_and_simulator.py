"""The engine itself beside the simulated one: the same requests, steps that take what they cost, and a set clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

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
from serve.policies.capacity import Capacity
from serve.policies.named_policies import policy_named
from serve.simulate.request_outcome import Outcome, refused
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import BudgetClasses, Need
from serve.traffic.load import make_load
from serve.traffic.traces import trace_named
from tests.serve.models import CONFIG, tiny_menu

COSTS = StepCosts(grid=(1, 33), base=(1.0, 3.0), neuron=(0.05, 0.08), head=(0.5, 0.5), attended=0.002)
BELIEVED = COSTS.scaled(0.7)
MENU = tiny_menu()
CAPACITY = Capacity(slots=4, max_queue=6, chunk_tokens=16)
N_BLOCKS = 14
"""So few that requests must make room for others."""
OPTIONS = {option.submodel: option for option in MENU.named.values()}


class TimedRuntime:
    """Steps take what they cost of a clock that nothing else moves; requests come meanwhile."""

    n_blocks, kept_bytes = N_BLOCKS, 0

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self.now_ms = 0.0
        self.config: DecoderConfig = CONFIG
        self.responses: list[Response | None] = []
        self._arrivals = arrivals
        self.engine = Engine(
            self,
            menu=MENU,
            times=LearnedTimes(BELIEVED, clock=lambda: self.now_ms / 1e3),
            policy=policy_named("deadline"),
            eos_ids=frozenset(),
            capacity=CAPACITY,
            prefix_cache=False,
        )

    def run(self, segments: Sequence[Segment]) -> Tensor:
        groups = groups_of([Part(0, segment, OPTIONS[segment.submodel]) for segment in segments])
        self.pass_until(self.now_ms + COSTS.step_ms(groups))
        return torch.zeros(sum(segment.wants_logits for segment in segments), CONFIG.vocab_size)

    def pass_until(self, at_ms: float) -> None:
        """Who comes at that very moment comes after the step."""
        while (come := len(self.responses)) < len(self._arrivals) and self._arrivals[come].at_ms < at_ms:
            self.now_ms = max(self.now_ms, self._arrivals[come].at_ms)
            try:
                self.responses.append(self.engine.submit(self._arrivals[come].request()))
            except QueueFullError:
                self.responses.append(None)
        self.now_ms = at_ms

    async def outcomes(self) -> list[Outcome]:
        """The engine's own loop without its thread."""
        while len(self.responses) < len(self._arrivals) or self.engine.counts() != (0, 0):
            if self.engine.counts() == (0, 0):
                self.pass_until(np.nextafter(self._arrivals[len(self.responses)].at_ms, np.inf))
                self.engine._times.begin()
            self.engine._step()
        await asyncio.sleep(0)
        return [await outcome_of(*pair) for pair in zip(self._arrivals, self.responses, strict=True)]


async def outcome_of(arrival: Arrival, response: Response | None) -> Outcome:
    if response is None:
        return refused(arrival, "rejected", {})
    async for _ in response:
        pass
    progress = response.progress
    return Outcome(arrival=arrival, status="done", timing=progress.measured(), submodels=dict(progress.submodels))


def load(trace: str, rate: float, *, costs: StepCosts = COSTS) -> Sequence[Arrival]:
    need = Need(costs=costs, option=MENU.universal, chunk_tokens=CAPACITY.chunk_tokens)
    common = {"seconds": 6.0, "seed": 3, "need": need, "context_length": CONFIG.context_length}
    return make_load(trace_named(trace), rate=rate, classes=BudgetClasses(), **common)  # type: ignore[arg-type]


@pytest.mark.parametrize(("trace", "rate"), [("gamma-4", 6.0), ("ramp", 12.0)])
def test_the_simulator_gives_every_request_the_times_and_widths_that_the_engine_gives_it(
    trace: str, rate: float
) -> None:
    """Costs that are wrong at first and corrected, a cache that is too small and a queue that is full: all the same."""
    arrivals = load(trace, rate)
    real = asyncio.run(TimedRuntime(arrivals).outcomes())
    node = SimulatedReplica(
        menu=MENU, costs=COSTS, believed=BELIEVED, attainment=0.99, capacity=CAPACITY, n_blocks=N_BLOCKS
    )
    found = simulate(arrivals, node=node, policy=policy_named("deadline"), rng=np.random.default_rng(0))
    assert {"done", "rejected"} == {outcome.status for outcome in real}
    assert len({name for outcome in real for name in outcome.submodels}) > 1
    for ours, theirs in zip(found, real, strict=True):
        assert (ours.status, ours.submodels) == (theirs.status, theirs.submodels)
        if ours.timing is not None and theirs.timing is not None:
            assert asdict(ours.timing) == pytest.approx(asdict(theirs.timing), abs=1e-6)
