"""How many requests per second the universal model can bear at most: what loads are multiples of.

It is the rate at which a backlog is worked off, all places of the batch being taken all the time. A steady load below
it keeps the queue bounded, one above it does not.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from benchmarks.load.load import draw_lengths
from lts_ray.runtime.step_costs import StepCosts
from serve.engine.capacity import Capacity
from serve.engine.scheduler import Scheduler
from serve.policies.budget import NO_BUDGET
from serve.policies.fixed import FixedPolicy
from serve.policies.menu import Menu, Option

REQUESTS = 400
"""The mean of so many lengths is within 3 %."""


def saturation_rate(
    menu: Menu,
    costs: StepCosts,
    *,
    capacity: Capacity,
    option: Option | None = None,
    requests: int = REQUESTS,
    seed: int = 0,
) -> float:
    """Requests per second of the load's mixture, all at `option`; None: the universal model.

    Steps are the scheduler's own, at the cost that is predicted for them. Ends when no more requests wait, before the
    batch runs empty; requests that are not done by then count by the share of their tokens that they have.
    """
    lengths = draw_lengths(requests, np.random.default_rng(seed), context_length=capacity.context_length)
    scheduler = Scheduler(
        menu=menu,
        policy=FixedPolicy(),
        slots=capacity.slots,
        max_queue=capacity.slots,
        chunk_tokens=capacity.chunk_tokens,
        n_blocks=capacity.n_blocks,
        prefix_cache=False,
    )
    now_ms, share, come = 0.0, 0.0, 0
    made: Counter[int] = Counter()
    while True:
        while come < requests and len(scheduler.waiting) < capacity.slots:
            prompt, output = (int(each) for each in lengths[come])
            scheduler.add(
                come, prompt=(0,) * prompt, max_tokens=output, budget=NO_BUDGET, pinned=option, arrived_ms=now_ms
            )
            come += 1
        step = None if come == requests and not scheduler.waiting else scheduler.step(now_ms, costs)
        if step is None:
            return 1e3 * share / now_ms
        now_ms += step.predicted_ms
        tokens = {part.id: 0 for part in step.parts if part.segment.wants_logits}
        scheduler.took(step, tokens, now_ms)
        for id in tokens:
            made[id] += 1
            share += 1 / int(lengths[id, 1])
            if made[id] == lengths[id, 1]:
                scheduler.remove(id)
