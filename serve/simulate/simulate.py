"""The endpoint without the model: the engine's own scheduler under a virtual clock, with steps that only take time.

What a step takes is its cost times lognormal noise; what a policy believes may be another cost. Minutes of a load are
replayed in seconds, and the same seed gives the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from math import inf

import numpy as np

from lts_ray.runtime.step_costs import StepCosts
from serve.engine.blocks import blocks_for_batch
from serve.engine.learned_times import LearnedTimes
from serve.engine.scheduler import Scheduler
from serve.engine.step import Part, Step
from serve.policies.capacity import Capacity
from serve.policies.deviation import Deviation
from serve.policies.menu import Menu
from serve.policies.policy import Job, Policy
from serve.policies.request import Request, Resumed
from serve.simulate.request_outcome import Outcome, refused
from serve.simulate.served_request import ServedRequest
from serve.traffic.arrival import Arrival

RUN = 100
"""Steps whose recorded noise is drawn together."""


@dataclass(frozen=True, kw_only=True)
class SimulatedReplica:
    menu: Menu
    costs: StepCosts
    """What steps take."""
    believed: StepCosts | None = None
    """What policies think that they take; None: the truth."""
    noise: float = 0.0
    """Of a step's time: the standard deviation of its logarithm."""
    recorded: tuple[float, ...] = ()
    """What an engine's steps took over what they cost, one after the other: drawn from in runs, beside `noise`."""
    attainment: float | None = None
    """Costs are corrected and deviations learned as the engine does; None: neither."""
    lived: tuple[tuple[Step, float], ...] = ()
    """Steps that its engine has learned from before, each with the milliseconds that it took."""
    hand_over_ms: float = 0.0
    """In a fleet: from when a request comes until its engine knows of it."""
    delivery_ms: float = 0.0
    """In a fleet: from a step's end until its tokens are with the client."""
    capacity: Capacity = field(default_factory=Capacity)
    n_blocks: int | None = None
    """Of the KV cache; None: enough for every load."""


class SimulatedEngine:
    """The scheduler under a virtual clock. Every request gets all its tokens, which are 0."""

    def __init__(
        self, node: SimulatedReplica, policy: Policy, *, longest: int, rng: np.random.Generator | None = None
    ) -> None:
        """longest: the most tokens of a request, its prompt's included. rng: what seeds the noise, if there is any."""
        self.now_ms, self.ends_ms = 0.0, inf
        self.factor = 1.0
        """Of the time of steps that begin from now on, beside noise."""
        self.changes = 0
        """Counts what changes its requests: their coming, and steps that begin and end."""
        self._node = node
        self._step: Step | None = None
        self._left: dict[int, int] = {}
        self._begun: set[int] = set()
        believed = node.costs if node.believed is None else node.believed
        self._times = LearnedTimes(believed, attainment=node.attainment, clock=lambda: self.now_ms / 1e3)
        for lived, took_ms in node.lived:
            self._times.begin()
            self.now_ms += took_ms
            self._times.end(lived)
        self.now_ms = 0.0
        # A stream of the engine's own: what others do does not change it.
        own = None if rng is None else np.random.default_rng(int(rng.integers(2**63)))
        self._noise = repeat(1.0) if own is None else _noise(node, own)
        self.scheduler = Scheduler(
            menu=node.menu,
            policy=policy,
            capacity=node.capacity,
            n_blocks=blocks_for_batch(node.capacity.slots, longest) if node.n_blocks is None else node.n_blocks,
            prefix_cache=False,  # prompts are made up: what they have in common is chance
        )

    def submit(self, id: int, request: Request, *, arrived_ms: float, resumed: Resumed | None = None) -> bool:
        """False where the queue is full. resumed: what it has got from another engine."""
        if not self.scheduler.add(Job(id=id, request=request, arrived_ms=arrived_ms), resumed):
            return False
        self._left[id] = request.max_tokens - (0 if resumed is None else len(resumed.tokens))
        self.changes += 1
        return True

    def step(self) -> list[tuple[Part, bool]]:
        """Run the next step, if there is one. Returns the parts that made a token, and whether it was the last one."""
        self.begin(self.now_ms)
        return [] if self._step is None else self.finish()

    def begin(self, now_ms: float) -> None:
        """Start the next step, if there is one and none runs; others may come and go until it ends, at `ends_ms`."""
        if self._step is not None or not self.scheduler.has_work:
            return
        self.now_ms, self.changes = now_ms, self.changes + 1
        self._times.begin()
        self._step = step = self.scheduler.step(now_ms, self.costs, self.deviation)
        assert step is not None
        self.ends_ms = now_ms + self._node.costs.step_ms(step.groups) * next(self._noise) * self.factor

    def finish(self) -> list[tuple[Part, bool]]:
        """The step that runs is over, and it is `ends_ms`. Returns what `step` does."""
        assert self._step is not None
        step, self._step = self._step, None
        self.now_ms, self.ends_ms, self.changes = self.ends_ms, inf, self.changes + 1
        self._times.end(step)
        self._begun.update([part.id for part in step.parts[step.decoded :]])
        made = [part for part in step.parts if part.segment.wants_logits]
        self.scheduler.took(step, {part.id: 0 for part in made}, self.now_ms)
        return [(part, self._ends(part.id)) for part in made]

    @property
    def not_begun(self) -> int:
        """Requests whose first step is not over: an ingress takes them to be waiting."""
        return len(self._left) - len(self._begun)

    @property
    def costs(self) -> StepCosts:
        """As it has corrected them."""
        return self._times.costs

    @property
    def deviation(self) -> Deviation:
        return self._times.deviation

    def _ends(self, id: int) -> bool:
        self._left[id] -= 1
        if self._left[id]:
            return False
        del self._left[id]
        self._begun.discard(id)
        self.scheduler.remove(id)
        return True


def _noise(node: SimulatedReplica, rng: np.random.Generator) -> Iterator[float]:
    """What each step takes over what it costs.

    Recorded noise comes in runs of RUN steps, each from a moment drawn at random: a node is slow for a while, not for
    a step.
    """
    recorded = np.array(node.recorded or (1.0,) * RUN)
    while True:
        begin = int(rng.integers(max(1, len(recorded) - RUN)))
        run = recorded[begin : begin + RUN]
        yield from (np.exp(node.noise * rng.standard_normal(len(run))) * run if node.noise else run).tolist()


def simulate(
    arrivals: Sequence[Arrival], *, node: SimulatedReplica, policy: Policy, rng: np.random.Generator
) -> tuple[Outcome, ...]:
    """What becomes of each request, in the order of `arrivals`, which must be that of their times.

    What happens at one moment: steps end, requests come, steps begin.
    """
    engine = SimulatedEngine(node, policy, longest=longest_of(arrivals), rng=rng)
    outcomes: dict[int, Outcome] = {}
    served: dict[int, ServedRequest] = {}
    arrived, now_ms = 0, 0.0
    while len(outcomes) < len(arrivals):
        now_ms = max(now_ms, min(engine.ends_ms, arrivals[arrived].at_ms if arrived < len(arrivals) else inf))
        for part, ended in engine.finish() if engine.ends_ms <= now_ms else ():
            served[part.id].note(part.option.name, 1, now_ms)
            if ended:
                outcomes[part.id] = served.pop(part.id).outcome(now_ms)
        while arrived < len(arrivals) and arrivals[arrived].at_ms <= now_ms:
            arrival = arrivals[arrived]
            request = ServedRequest(arrived, arrival, arrival.request())
            if engine.submit(arrived, request.request, arrived_ms=arrival.at_ms):
                served[arrived] = request
            else:
                outcomes[arrived] = refused(arrival, "rejected", {})
            arrived += 1
        engine.begin(now_ms)
    return tuple(outcomes[index] for index in range(len(arrivals)))


def longest_of(arrivals: Sequence[Arrival]) -> int:
    """The most tokens of a request, its prompt included."""
    return max((arrival.prompt_tokens + arrival.output_tokens for arrival in arrivals), default=1)
