"""What a policy could reach that knows the whole load: between which widths to choose in each window of time.

Within a window it plans as the deadline policy does. Which widths it may choose is found offline, by replaying the load
in the simulator again and again: from several starts, one window changed at a time, and kept if that was better. The
deadline policy itself is one of the starts, so it is never worse on the load that it was found for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.deadline import ALL, DeadlinePolicy, Span
from serve.policies.menu import Menu
from serve.policies.policy import Plan, Situation
from serve.simulate.attainment_score import mean_loss
from serve.simulate.request_outcome import Outcome
from serve.simulate.simulate import SimulatedReplica, simulate
from serve.traffic.arrival import Arrival

QUALITY = 0.2
"""What all tokens at the widest instead of the narrowest are worth, where all budgets kept are worth 1."""


@dataclass(kw_only=True)
class OraclePolicy:
    windows: tuple[Span, ...]
    """The widths to choose among in each window; the last one goes on."""
    window_ms: float
    """How long a window is."""
    first_ms: float = 0.0
    """When the load's first request comes, after the load's start."""
    start_ms: float | None = None
    """When the load started, on the engine's clock; None until the first request tells."""
    name: str = "oracle"
    deadline: DeadlinePolicy = field(default_factory=DeadlinePolicy, repr=False)

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        if self.start_ms is None:
            arrived = (job.arrived_ms for job in situation.jobs)
            self.start_ms = min(arrived, default=situation.now_ms) - self.first_ms
        window = min(max(0, int((situation.now_ms - self.start_ms) // self.window_ms)), len(self.windows) - 1)
        if self.deadline.span != self.windows[window]:
            self.deadline = replace(self.deadline, span=self.windows[window], last=None)
        return self.deadline.plan(situation, menu, costs)


def find_oracle(
    arrivals: Sequence[Arrival],
    *,
    node: SimulatedReplica,
    rng: np.random.Generator,
    windows: int = 12,
    rollouts: int = 60,
) -> OraclePolicy:
    """rollouts: the most replays of the load. It is right about the costs, too: no noise."""
    certain = replace(node, believed=None, noise=0.0, drift=0.0)
    times = [arrival.at_ms for arrival in arrivals] or [0.0]
    window_ms, first_ms = max(times) / windows + 1.0, min(times)

    def value(schedule: tuple[Span, ...]) -> float:
        policy = OraclePolicy(windows=schedule, window_ms=window_ms, first_ms=first_ms)
        return worth(simulate(arrivals, node=certain, policy=policy, rng=rng), node.menu)

    choices = _choices(len(node.menu.elastic))
    starts = [(choice,) * windows for choice in choices][:rollouts]
    values = [value(start) for start in starts]
    best = int(np.argmax(values))
    schedule, reached = starts[best], values[best]
    changes = _changes(windows, choices, rng)
    for _ in range(rollouts - len(starts)):
        window, choice = next(changes)
        tried = (*schedule[:window], choice, *schedule[window + 1 :])
        if tried != schedule and (its_value := value(tried)) > reached:
            schedule, reached = tried, its_value
    return OraclePolicy(windows=schedule, window_ms=window_ms, first_ms=first_ms)


def _choices(options: int) -> list[Span]:
    """At most as wide as one of up to four options, the first being all; and exactly as wide as one."""
    firsts = sorted({round(place) for place in np.linspace(0, options - 1, min(4, options))})
    return [ALL, *((first, None) for first in firsts[1:]), *((first, first + 1) for first in firsts[:-1])]


def _changes(windows: int, choices: Sequence[Span], rng: np.random.Generator) -> Iterator[tuple[int, Span]]:
    """Every window with every choice, in random order, again and again."""
    while True:
        for number in rng.permutation(windows * len(choices)):
            window, choice = divmod(int(number), len(choices))
            yield window, choices[choice]


def worth(outcomes: Sequence[Outcome], menu: Menu) -> float:
    """The share of budgets kept, and a little for quality."""
    best, worst = menu.elastic[0].shortfall, menu.narrowest.shortfall
    losses = {option.name: max(option.shortfall, best) for option in menu.named.values()}
    span = worst - best
    loss = mean_loss(outcomes, losses=losses, narrowest=menu.narrowest.name)
    bounded = [outcome for outcome in outcomes if outcome.budget]
    attainment = sum(outcome.met for outcome in bounded) / len(bounded) if bounded else 1.0
    return attainment + (QUALITY * (worst - loss) / span if span > 0 else 0.0)
