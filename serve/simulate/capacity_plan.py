"""How many replicas of which kind keep budgets at least cost: fleets of a fixed size, each tried on a load.

Where there are few fleets, each is tried; else Optuna proposes them, and what it found is made cheaper one replica at
a time. Two things save trials: a fleet that already misses too much in the load's busiest part is not tried on the
whole, nor is one that has no more of any kind; and nothing that costs more than a fleet without fault is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from math import ceil, prod
from operator import contains, ge

import numpy as np
import optuna

from lts_ray.pareto import non_dominated
from serve.simulate.simulated_kind import SimulatedKind
from serve.traffic.arrival import Arrival

MOST = 100
"""Trials. So many fleets are tried one and all."""
PART = 0.1
"""Of a load's time: its busiest part."""
ASKED = 10
"""Proposals of Optuna for each trial at most: it comes back to fleets that it knows."""
SWAPPED = 3
"""Replicas of a kind that go together, at most, to make a fleet cheaper."""
NEAR = 3
"""A fleet whose busiest part alone misses so many times what may be missed is not tried any further."""
DIGITS = 3
"""Of attainment and loss, where fleets are compared: the rest is noise."""
Counts = tuple[int, ...]
"""Replicas of each kind, in the kinds' order."""
Result = tuple[float, float]
"""The share of budgets that a fleet keeps, and the mean loss of a token."""
Trial = Callable[[Mapping[str, int]], Result]
"""Of a fleet with so many replicas by kind."""


@dataclass(frozen=True, kw_only=True)
class PlannedFleet:
    replicas: Mapping[str, int]
    """By kind."""
    cost_per_hour: float
    attainment: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class CapacityPlan:
    wanted: float
    """The share of budgets to keep."""
    fleets: int
    """That the kinds' bounds allow."""
    tried: tuple[PlannedFleet, ...]
    """On the whole load; the cheapest first."""
    seen: tuple[PlannedFleet, ...]
    """On its busiest part alone: they keep no larger share than stands there."""

    @property
    def front(self) -> tuple[PlannedFleet, ...]:
        """Those that no other beats in cost, attainment and loss."""
        vectors = [
            (fleet.cost_per_hour, -round(fleet.attainment, DIGITS), round(fleet.loss, DIGITS)) for fleet in self.tried
        ]
        return tuple(self.tried[place] for place in non_dominated(vectors))

    @property
    def cheapest(self) -> PlannedFleet | None:
        """That keeps the wanted share; among those that cost the same the one with the least loss."""
        kept = [fleet for fleet in self.tried if fleet.attainment >= self.wanted]
        return min(kept, key=lambda fleet: (fleet.cost_per_hour, fleet.loss), default=None)


def plan_capacity(
    kinds: Sequence[SimulatedKind],
    whole: Trial,
    *,
    wanted: float,
    best_loss: float,
    seed: int,
    busiest: Trial | None = None,
    most: int = MOST,
    progress: Callable[[int, int], None] | None = None,
) -> CapacityPlan:
    """Counts are within the kinds' bounds, one replica at least in all.

    best_loss: that none can be below. busiest: on a part of the load; the share is the most that the whole load's can
    be. most: trials on the whole load. progress: told how many fleets were looked at, of how many.
    """
    search = _Search(kinds=kinds, whole=whole, busiest=busiest, wanted=wanted, best_loss=best_loss)
    ranges = [range(kind.min_replicas, kind.max_replicas + 1) for kind in kinds]
    fleets = prod(map(len, ranges)) - all(0 in each for each in ranges)
    tell = progress or (lambda done, total: None)
    if fleets <= most:
        for done, counts in enumerate(sorted(filter(any, product(*ranges)), key=search.cost), start=1):
            search.of(counts)
            tell(done, fleets)
    else:
        for _ in chain(_proposed(search, ranges, seed, most // 2), _descended(search, ranges)):
            tell(min(most, int(search.spent)), most)
            if search.spent >= most:
                break
    if search.seen and not search.tried:  # how far the best there is would go
        best = max(search.seen, key=lambda counts: search.seen[counts])
        search.tried[best] = whole(search.named(best))
    return CapacityPlan(
        wanted=wanted, fleets=fleets, tried=search.planned(search.tried), seen=search.planned(search.seen)
    )


@dataclass(kw_only=True)
class _Search:
    kinds: Sequence[SimulatedKind]
    whole: Trial
    busiest: Trial | None
    wanted: float
    best_loss: float
    tried: dict[Counts, Result] = field(default_factory=dict)
    seen: dict[Counts, Result] = field(default_factory=dict)
    """On the busiest part, which was enough."""
    faultless: Counts | None = None
    """The cheapest fleet that keeps all at the best quality."""

    def of(self, counts: Counts) -> Result:
        """What the fleet does; where that need not be known, what it does at best."""
        if counts in self.tried:
            return self.tried[counts]
        if more := next((more for more in self.seen if all(map(ge, more, counts))), None):
            return self.seen[more]
        if self.faultless is not None and self.cost(counts) > self.cost(self.faultless):
            return self.tried[self.faultless]
        if self.busiest is not None:
            at_most = self.busiest(self.named(counts))
            if 1 - at_most[0] > NEAR * (1 - self.wanted):
                self.seen[counts] = at_most
                return at_most
        self.tried[counts] = result = self.whole(self.named(counts))
        if result[0] >= 1 and round(result[1], DIGITS) <= round(self.best_loss, DIGITS):
            self.faultless = counts  # cheaper than the one before, or it would not have been tried
        return result

    def cost(self, counts: Counts) -> float:
        return sum(count * kind.cost_per_hour for count, kind in zip(counts, self.kinds, strict=True))

    def named(self, counts: Counts) -> dict[str, int]:
        return {kind.name: count for kind, count in zip(self.kinds, counts, strict=True)}

    @property
    def spent(self) -> float:
        """Trials on the whole load, and shares of one."""
        return len(self.tried) + len(self.seen) * PART

    def planned(self, results: Mapping[Counts, Result]) -> tuple[PlannedFleet, ...]:
        return tuple(
            PlannedFleet(replicas=self.named(counts), cost_per_hour=self.cost(counts), attainment=attainment, loss=loss)
            for counts, (attainment, loss) in sorted(results.items(), key=lambda item: (self.cost(item[0]), item[0]))
        )


def _proposed(search: _Search, ranges: Sequence[range], seed: int, most: int) -> Iterator[None]:
    """Look at what Optuna proposes, the largest fleet first, until `most` is spent."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({kind.name: each[-1] for kind, each in zip(search.kinds, ranges, strict=True)})
    for _ in range(ASKED * most):
        trial = study.ask()
        counts = tuple(
            trial.suggest_int(kind.name, each[0], each[-1]) for kind, each in zip(search.kinds, ranges, strict=True)
        )
        if not any(counts):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        attainment, loss = search.of(counts)
        study.tell(trial, [search.cost(counts), -min(attainment, search.wanted), loss])
        yield
        if search.spent >= most:
            return


def _descended(search: _Search, ranges: Sequence[range]) -> Iterator[None]:
    """From the cheapest fleet that keeps what is wanted, go on to cheaper ones that do: one replica fewer of a kind,
    or a few, and of another kind as many as cost less than these."""
    kept = [counts for counts, result in search.tried.items() if result[0] >= search.wanted]
    best = min(kept, key=search.cost, default=None)
    while best is not None:
        beside, best = sorted(_cheaper(best, search, ranges), key=search.cost), None
        for counts in beside:
            attainment, _ = search.of(counts)
            yield
            if attainment >= search.wanted:
                best = counts
                break


def _cheaper(counts: Counts, search: _Search, ranges: Sequence[range]) -> Iterator[Counts]:
    prices = [kind.cost_per_hour for kind in search.kinds]
    for less, more, gone in product(range(len(counts)), range(len(counts)), range(1, SWAPPED + 1)):
        beside = list(counts)
        beside[less] -= gone
        if more != less:  # as many as cost less together
            beside[more] = min(ranges[more][-1], beside[more] + ceil(gone * prices[less] / prices[more]) - 1)
        if any(beside) and all(map(contains, ranges, beside)) and search.cost(tuple(beside)) < search.cost(counts):
            yield tuple(beside)


def busiest_part(arrivals: Sequence[Arrival]) -> Sequence[Arrival]:
    """Of its time PART, in which the most tokens are asked for; at the times at which they come."""
    times = np.array([arrival.at_ms for arrival in arrivals])
    tokens = np.cumsum([0, *(arrival.prompt_tokens + arrival.output_tokens for arrival in arrivals)])
    begins = np.arange(len(arrivals))
    ends = np.searchsorted(times, times + PART * times.max(initial=0.0), side="right")
    begin = int(np.argmax(tokens[ends] - tokens[begins])) if len(arrivals) else 0
    return arrivals[begin : ends[begin]] if len(arrivals) else ()
