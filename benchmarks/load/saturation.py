"""How many requests per second the universal model can bear at most: what loads are multiples of.

It is the rate at which a backlog is worked off, all places of the batch being taken all the time. A steady load below
it keeps the queue bounded, one above it does not. The costs of steps say what it is, and the engine itself how much
longer it takes.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.contestants import UNIVERSAL, contestant
from benchmarks.load.local_model import LoadCapacity, LocalModel
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET
from serve.policies.fixed import FixedPolicy
from serve.policies.menu import Menu
from serve.policies.request import Request
from serve.simulate.simulate import SimulatedEngine, SimulatedReplica
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import NO_CLASS
from serve.traffic.load import draw_lengths

REQUESTS = 400
"""The mean of so many lengths is within 3 %."""
BATCHES, REPEATS = 4, 3
"""Of requests in a backlog, and how often the engine works it off; the middle time counts."""


def saturation_rate(
    menu: Menu,
    costs: StepCosts,
    *,
    capacity: LoadCapacity,
    requests: int = REQUESTS,
    seed: int = 0,
    lengths: NDArray[np.int64] | None = None,
) -> float:
    """Requests per second of the load's mixture, all by the universal model. lengths: of other requests, [N, 2].

    Steps are the scheduler's own, at the cost that is predicted for them. Ends when no more requests wait, before the
    batch runs empty; requests that are not done by then count by the share of their tokens that they have.
    """
    if lengths is None:
        lengths = draw_lengths(requests, np.random.default_rng(seed), context_length=capacity.context_length)
    requests = len(lengths)
    node = SimulatedReplica(menu=menu, costs=costs, capacity=replace(capacity, max_queue=capacity.slots))
    engine = SimulatedEngine(node, FixedPolicy(), longest=capacity.context_length)
    share, come = 0.0, 0
    while come < requests or engine.scheduler.waiting:
        while come < requests and len(engine.scheduler.waiting) < capacity.slots:
            prompt_tokens, output_tokens = (int(length) for length in lengths[come])
            request = Request(prompt=(0,) * prompt_tokens, max_tokens=output_tokens)
            engine.submit(come, request, arrived_ms=engine.now_ms)
            come += 1
        for part, _ in engine.step():
            share += 1 / int(lengths[part.id, 1])
    return 1e3 * share / engine.now_ms


def engine_slowdown(model: LocalModel, costs: StepCosts, *, seed: int = 0) -> float:
    """How much longer the engine takes for a backlog than its costs say. There is work between the steps, too."""
    room = min(BATCHES * model.capacity.slots, model.capacity.max_queue)
    lengths = draw_lengths(room, np.random.default_rng(seed), context_length=model.capacity.context_length)
    backlog = [
        Arrival(at_ms=0.0, prompt_tokens=int(prompt), output_tokens=int(output), budget=NO_BUDGET, klass=NO_CLASS)
        for prompt, output in lengths
    ]
    one = contestant(UNIVERSAL, model.menu)
    predicted_ms = max(outcome.end_ms for outcome in one.simulated(backlog, model.replica(costs), seed=seed))
    taken_ms = []
    for _ in range(1 + REPEATS):
        outcomes, _ = one.on_engine(backlog, model, costs, seed=seed)
        if any(outcome.timing is None for outcome in outcomes):
            raise LtsRayError("the engine did not answer a backlog of requests; see the log")
        taken_ms.append(max(outcome.end_ms for outcome in outcomes))
    return median(taken_ms[1:]) / predicted_ms  # the first one warms up
