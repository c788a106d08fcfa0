"""One load under one policy, on the engine or simulated, and how the two compare."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from benchmarks.load.budget_classes import NO_CLASS
from benchmarks.load.clients import engine_client, replay_load
from benchmarks.load.contestants import UNIVERSAL, Contestant, contestant
from benchmarks.load.load import draw_lengths, make_prompts
from benchmarks.load.local_model import LocalModel, running
from benchmarks.load.step_log import StepLog
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET
from serve.simulate.arrival import Arrival
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import SimulatedReplica, simulate

NOISE = 4
"""The stream of random numbers of a simulation's steps; see benchmarks.load.load for the others."""
BATCHES, REPEATS = 4, 3
"""Of requests in a backlog, and how often the engine works it off; the middle time counts."""


def on_engine(
    one: Contestant, arrivals: Sequence[Arrival], model: LocalModel, costs: StepCosts, *, seed: int
) -> tuple[Sequence[Outcome], float | None]:
    """In real time, by an engine of its own. Also returns the median relative error of its steps' predicted times."""
    log = StepLog()
    engine = model.engine(costs=costs, policy=one.policy, menu=one.menu, observer=log)
    prompts = list(make_prompts(arrivals, seed=seed, vocab_size=model.config.vocab_size))
    gc.collect()  # what other loads left is not this one's to clear away
    outcomes: dict[int, Outcome] = {}
    with running(engine):
        ask = engine_client(engine)
        asyncio.run(replay_load(ask, arrivals, prompts, clock=engine.clock, ended=outcomes.__setitem__))
    return [outcomes[number] for number in range(len(arrivals))], log.median_error


def node_of(model: LocalModel, costs: StepCosts) -> SimulatedReplica:
    """The same engine for the simulator."""
    return SimulatedReplica(menu=model.menu, costs=costs, capacity=model.capacity, n_blocks=model.capacity.n_blocks)


def simulated(one: Contestant, arrivals: Sequence[Arrival], node: SimulatedReplica, *, seed: int) -> Sequence[Outcome]:
    rng = np.random.default_rng([seed, NOISE])
    return simulate(arrivals, node=replace(node, menu=one.menu), policy=one.policy, rng=rng)


def engine_slowdown(model: LocalModel, costs: StepCosts, *, seed: int = 0) -> float:
    """How much longer the engine takes for a backlog than its costs say. There is work between the steps, too."""
    room = min(BATCHES * model.capacity.slots, model.capacity.max_queue)
    lengths = draw_lengths(room, np.random.default_rng(seed), context_length=model.capacity.context_length)
    backlog = [
        Arrival(at_ms=0.0, prompt_tokens=int(prompt), output_tokens=int(output), budget=NO_BUDGET, klass=NO_CLASS)
        for prompt, output in lengths
    ]
    one = contestant(UNIVERSAL, model.menu)
    predicted_ms = max(outcome.end_ms for outcome in simulated(one, backlog, node_of(model, costs), seed=seed))
    taken_ms = []
    for _ in range(1 + REPEATS):
        outcomes, _ = on_engine(one, backlog, model, costs, seed=seed)
        if any(outcome.timing is None for outcome in outcomes):
            raise LtsRayError("the engine did not answer a backlog of requests; see the log")
        taken_ms.append(max(outcome.end_ms for outcome in outcomes))
    return median(taken_ms[1:]) / predicted_ms  # the first one warms up
