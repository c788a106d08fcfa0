"""How many requests per second the universal model can bear at most: what loads are multiples of.

It is the rate at which a backlog is worked off, all places of the batch being taken all the time. A steady load below
it keeps the queue bounded, one above it does not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.capacity import Capacity
from serve.policies.fixed import FixedPolicy
from serve.policies.menu import Menu
from serve.policies.request import Request
from serve.simulate.simulate import SimulatedEngine, SimulatedReplica
from serve.traffic.load import draw_lengths

REQUESTS = 400
"""The mean of so many lengths is within 3 %."""


def saturation_rate(
    menu: Menu,
    costs: StepCosts,
    *,
    capacity: Capacity,
    context_length: int,
    requests: int = REQUESTS,
    seed: int = 0,
    lengths: NDArray[np.int64] | None = None,
) -> float:
    """Requests per second of the load's mixture, all by the universal model. lengths: of other requests, [N, 2].

    Steps are the scheduler's own, at the cost that is predicted for them. Ends when no more requests wait, before the
    batch runs empty; requests that are not done by then count by the share of their tokens that they have.
    """
    if lengths is None:
        lengths = draw_lengths(requests, np.random.default_rng(seed), context_length=context_length)
    requests = len(lengths)
    node = SimulatedReplica(menu=menu, costs=costs, capacity=replace(capacity, max_queue=capacity.slots))
    engine = SimulatedEngine(node, FixedPolicy(), longest=context_length)
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
