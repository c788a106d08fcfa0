"""The endpoint without the model: the engine's own scheduler under a virtual clock, with steps that only take time.

What a step takes is its cost times lognormal noise; what a policy believes may be another cost. Minutes of a load are
replayed in seconds, and the same seed gives the same steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from math import exp, inf, sqrt

import numpy as np

from lts_ray.runtime.step_costs import Group, StepCosts
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

DRAWN = 100
"""Steps whose recorded noise is drawn together."""
KEPT = 0.95
"""Of what all steps have drifted, from one drawing to the next."""
RUN = 32
"""The most steps that are simulated together: more of them would be in vain where requests come often."""


@dataclass(frozen=True, kw_only=True)
class SimulatedReplica:
    menu: Menu
    costs: StepCosts
    """What steps take."""
    believed: StepCosts | None = None
    """What policies think that they take; None: the truth."""
    noise: float = 0.0
    """Of a step's time: the standard deviation of its logarithm."""
    drift: float = 0.0
    """The same of a factor of all steps that wanders over some thousand of them."""
    recorded: tuple[float, ...] = ()
    """What an engine's steps took over what they cost, one after the other: drawn from in runs, beside `noise`."""
    recorded_prompts: tuple[float, ...] = ()
    """The same of steps that read prompts: they are longer, and a stall is less to them. Empty: as `recorded`."""
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
    worst_loss: float | None = None
    """The mean loss of a token that autoscaling counts as borne; None: any."""


@dataclass(slots=True)
class TakenSteps:
    """Alike steps that have ended, one after the other."""

    step: Step
    """The first."""
    ends_ms: list[float]
    ended: list[int]
    """Ids of the requests that got their last token with the last of them."""

    @property
    def made(self) -> list[Part]:
        """The parts that made a token in each."""
        return [part for part in self.step.parts if part.segment.wants_logits]


class SimulatedEngine:
    """The scheduler under a virtual clock. Every request gets all its tokens, which are 0.

    Steps that are alike are one run: `ends_ms` is its end, and `take` gives those that have ended before. What changes
    the steps to come, changes those of the run that have not begun.
    """

    def __init__(
        self, node: SimulatedReplica, policy: Policy, *, longest: int, rng: np.random.Generator | None = None
    ) -> None:
        """longest: the most tokens of a request, its prompt's included. rng: what seeds the noise, if there is any."""
        self.now_ms, self.ends_ms = 0.0, inf
        self.changes = 0
        """Counts what changes its requests: their coming, and steps that begin and end."""
        self._node, self._factor = node, 1.0
        self._step: Step | None = None  # of the run
        # Of its steps that are not taken yet: noise, what each costs as it is believed, and when it ends.
        self._draws: list[float] = []
        self._quiet_ms: list[float] = []
        self._ends_ms: list[float] = []
        self._over = 0  # how many of its steps have been taken
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
        # By whether steps read prompts: noise, and what was drawn for steps which never began, the next one last.
        self._noise: dict[bool, tuple[Iterator[float], list[float]]] = {
            False: (repeat(1.0) if own is None else _noise(node, node.recorded, own), [])
        }
        prompts = None if own is None or not node.recorded_prompts else _noise(node, node.recorded_prompts, own)
        self._noise[True] = self._noise[False] if prompts is None else (prompts, [])
        self.scheduler = Scheduler(
            menu=node.menu,
            policy=policy,
            capacity=node.capacity,
            n_blocks=blocks_for_batch(node.capacity.slots, longest) if node.n_blocks is None else node.n_blocks,
            prefix_cache=False,  # prompts are made up: what they have in common is chance
        )

    def submit(self, id: int, request: Request, *, arrived_ms: float, resumed: Resumed | None = None) -> bool:
        """False where the queue is full. resumed: what it has got from another engine.

        Steps that have ended are to be taken before, and those `cut` that have not begun.
        """
        if not self.scheduler.add(Job(id=id, request=request, arrived_ms=arrived_ms), resumed):
            return False
        self._left[id] = request.max_tokens - (0 if resumed is None else len(resumed.tokens))
        self.changes += 1
        return True

    def step(self) -> list[tuple[Part, bool]]:
        """Run the next step, if there is one. Returns the parts that made a token, and whether it was the last one."""
        self.begin(self.now_ms, most=1)
        taken = self.take(self.ends_ms)
        return [] if taken is None else [(part, part.id in taken.ended) for part in taken.made]

    def begin(self, now_ms: float, *, most: int = RUN) -> None:
        """Start the next steps, at most so many, if there is something to do and none runs."""
        if self._step is not None or not self.scheduler.has_work:
            return
        self.now_ms, self.changes, self._over = now_ms, self.changes + 1, 0
        self._times.begin()
        self._step = step = self.scheduler.step(now_ms, self.costs, self.deviation)
        assert step is not None
        self._draws, self._quiet_ms, self._ends_ms = [], [step.quiet_ms], []
        costs, cost_ms = self._node.costs, step.quiet_ms
        if self._node.believed is not None:
            cost_ms = costs.quiet_ms(step.groups)
        self._add(costs.served_ms(cost_ms, reads_prompt=step.reads_prompt), now_ms, prompt=step.reads_prompt)
        more, until_ms = self.scheduler.alike(step) if most > 1 else (0, -inf)
        if more and self.ends_ms < until_ms:
            more = min(more, most - 1)
            quiet_ms, believed_ms = _later_ms(costs, step, more), _later_ms(self.costs, step, more)
            for quiet, believed in zip(quiet_ms, believed_ms, strict=True):
                self._quiet_ms.append(believed)
                self._add(costs.served_ms(quiet, reads_prompt=False), self.ends_ms)
                if self.ends_ms >= until_ms:
                    break

    def take(self, now_ms: float) -> TakenSteps | None:
        """The steps that have ended by now; None where there are none."""
        step = self._step
        if step is None or self._ends_ms[0] > now_ms:
            return None
        count = bisect_right(self._ends_ms, now_ms)
        ends_ms, self._ends_ms = self._ends_ms[:count], self._ends_ms[count:]
        quiet_ms, self._quiet_ms = self._quiet_ms[:count], self._quiet_ms[count:]
        del self._draws[:count]
        self.now_ms, self.changes, self._over = ends_ms[-1], self.changes + 1, self._over + count
        self._times.end_all(quiet_ms, [end_ms / 1e3 for end_ms in ends_ms], prompt=step.reads_prompt)
        self._begun.update([part.id for part in step.parts[step.decoded :]])
        taken = TakenSteps(step, ends_ms, [])
        made = taken.made
        self.scheduler.took(step, {part.id: 0 for part in made}, self.now_ms, times=count)
        for part in made:
            self._left[part.id] -= count
            if not self._left[part.id]:
                del self._left[part.id]
                self._begun.discard(part.id)
                self.scheduler.remove(part.id)
                taken.ended.append(part.id)
        if not self._ends_ms:
            self._step, self.ends_ms = None, inf
        return taken

    def cut(self, now_ms: float) -> None:
        """The steps of the run that have not begun by now never do. Those that have ended are to be taken before."""
        begun = 0 if self._over and self.now_ms >= now_ms else 1
        if self._step is not None and len(self._ends_ms) > begun:
            self._noise[self._step.reads_prompt][1].extend(self._draws[begun:][::-1])
            del self._draws[begun:], self._quiet_ms[begun:], self._ends_ms[begun:]
            self.ends_ms = self._ends_ms[0] if begun else inf
            if not begun:
                self._step = None

    def slow(self, factor: float, now_ms: float) -> None:
        """Steps that begin from now on take so many times as long. Those that have ended are taken already."""
        self._factor = factor
        self.cut(now_ms)

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

    def _add(self, cost_ms: float, begins_ms: float, *, prompt: bool = False) -> None:
        noise, unused = self._noise[prompt]
        draw = unused.pop() if unused else next(noise)
        self._draws.append(draw)
        self.ends_ms = begins_ms + cost_ms * draw * self._factor
        self._ends_ms.append(self.ends_ms)


def _later_ms(costs: StepCosts, step: Step, count: int) -> list[float]:
    """What so many steps after one that decodes cost on a quiet node: with each, its rows look at one token more."""
    still = costs.quiet_ms([Group(group.neurons, group.rows, 0, group.logits, group.planes) for group in step.groups])
    attended, rows = sum([group.attended for group in step.groups]), step.decoded
    return [still + costs.attended * float(attended + later * rows) for later in range(1, count + 1)]


def _noise(node: SimulatedReplica, ratios: Sequence[float], rng: np.random.Generator) -> Iterator[float]:
    """What each step takes over what it costs.

    Recorded noise comes in runs of DRAWN steps, each from a moment drawn at random: a node is slow for a while, not for
    a step.
    """
    recorded = np.array(ratios or (1.0,) * DRAWN)
    wandered = node.drift * rng.standard_normal() if node.drift else 0.0
    while True:
        begin = int(rng.integers(max(1, len(recorded) - DRAWN)))
        run = recorded[begin : begin + DRAWN]
        if node.drift:
            wandered = KEPT * wandered + sqrt(1 - KEPT**2) * node.drift * rng.standard_normal()
            run = exp(wandered) * run
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
        if (taken := engine.take(now_ms)) is not None:
            for part in taken.made:
                served[part.id].note(part.option.name, len(taken.ends_ms), taken.ends_ms[0])
            for id in taken.ended:
                outcomes[id] = served.pop(id).outcome(now_ms)
        while arrived < len(arrivals) and arrivals[arrived].at_ms <= now_ms:
            arrival = arrivals[arrived]
            request = ServedRequest(arrived, arrival, arrival.request())
            engine.cut(now_ms)
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
