"""The endpoint without the model: the engine's own scheduler under a virtual clock, with steps that only take time.

What a step takes is its cost times lognormal noise; what a policy believes may be another cost. Minutes of a load are
replayed in seconds, and the same seed gives the same steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp

import numpy as np

from lts_ray.runtime.step_costs import StepCosts
from serve.engine.blocks import blocks_for
from serve.engine.scheduler import Scheduler
from serve.policies.budget import Timing
from serve.policies.menu import Menu
from serve.policies.policy import Policy
from serve.simulate.arrival import Arrival
from serve.simulate.request_outcome import Outcome, refused


@dataclass(frozen=True, kw_only=True)
class SimulatedReplica:
    """costs: what steps take. believed: what policies think they do; None: the truth.

    noise: of a step's time, the standard deviation of its logarithm. n_blocks: of the KV cache; None: enough for all.
    """

    menu: Menu
    costs: StepCosts
    believed: StepCosts | None = None
    noise: float = 0.0
    slots: int = 8
    max_queue: int = 64
    chunk_tokens: int = 256
    n_blocks: int | None = None

    def blocks(self, arrivals: Sequence[Arrival]) -> int:
        if self.n_blocks is not None:
            return self.n_blocks
        longest = max((each.prompt_tokens + each.output_tokens for each in arrivals), default=1)
        return (self.slots + 1) * (blocks_for(longest) + 1)


@dataclass(kw_only=True, slots=True)
class _Served:
    """A request while it runs. first_ms, last_ms: when tokens came, on the virtual clock."""

    arrival: Arrival
    first_ms: float = 0.0
    last_ms: float = 0.0
    left: int
    submodels: Counter[str] = field(default_factory=Counter)

    def outcome(self) -> Outcome:
        arrival, later = self.arrival, self.arrival.output_tokens - 1
        timing = Timing(
            ttft_ms=self.first_ms - arrival.at_ms,
            tpot_ms=(self.last_ms - self.first_ms) / later if later else 0.0,
            e2e_ms=self.last_ms - arrival.at_ms,
        )
        return Outcome(arrival=arrival, status="done", timing=timing, submodels=dict(self.submodels))


def simulate(
    arrivals: Sequence[Arrival], *, node: SimulatedReplica, policy: Policy, rng: np.random.Generator
) -> tuple[Outcome, ...]:
    """What becomes of each request, in the order of `arrivals`, which must be that of their times."""
    scheduler = Scheduler(
        menu=node.menu,
        policy=policy,
        slots=node.slots,
        max_queue=node.max_queue,
        chunk_tokens=node.chunk_tokens,
        n_blocks=node.blocks(arrivals),
        prefix_cache=False,  # prompts are made up: what they have in common is chance
    )
    believed = node.costs if node.believed is None else node.believed
    outcomes: dict[int, Outcome] = {}
    served: dict[int, _Served] = {}
    now_ms, arrived = 0.0, 0
    while len(outcomes) < len(arrivals):
        if not scheduler.has_work:
            now_ms = max(now_ms, arrivals[arrived].at_ms)
        while arrived < len(arrivals) and arrivals[arrived].at_ms <= now_ms:
            arrival = arrivals[arrived]
            if _add(scheduler, arrived, arrival):
                served[arrived] = _Served(arrival=arrival, left=arrival.output_tokens)
            else:
                outcomes[arrived] = refused(arrival, "rejected", {})
            arrived += 1
        step = scheduler.step(now_ms, believed)
        if step is None:
            continue
        duration_ms = node.costs.step_ms(step.groups())
        now_ms += duration_ms * exp(node.noise * rng.standard_normal()) if node.noise else duration_ms
        made = [part for part in step.parts if part.segment.wants_logits]
        scheduler.took(step, {part.id: 0 for part in made}, now_ms)
        for part in made:
            each = served[part.id]
            if not each.submodels:
                each.first_ms = now_ms
            each.submodels[part.option.name] += 1
            each.left -= 1
            if each.left == 0:
                each.last_ms = now_ms
                scheduler.remove(part.id)
                outcomes[part.id] = served.pop(part.id).outcome()
    return tuple(outcomes[index] for index in range(len(arrivals)))


def _add(scheduler: Scheduler, index: int, arrival: Arrival) -> bool:
    return scheduler.add(
        index,
        prompt=(0,) * arrival.prompt_tokens,
        max_tokens=arrival.output_tokens,
        budget=arrival.budget,
        pinned=None,
        arrived_ms=arrival.at_ms,
    )
