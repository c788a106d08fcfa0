"""How much longer an engine takes for a backlog of requests than its costs say."""

from __future__ import annotations

from statistics import median

import numpy as np

from benchmarks.load.contestants import UNIVERSAL, contestant
from benchmarks.load.local_model import LocalModel
from lts_ray.errors import LtsRayError
from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import NO_BUDGET
from serve.traffic.arrival import Arrival
from serve.traffic.budget_classes import NO_CLASS
from serve.traffic.load import draw_lengths

BATCHES, REPEATS = 4, 3
"""Of requests in a backlog, and how often the engine works it off; the middle time counts."""


def engine_slowdown(model: LocalModel, costs: StepCosts, *, seed: int = 0) -> float:
    """There is work between the steps, too."""
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
