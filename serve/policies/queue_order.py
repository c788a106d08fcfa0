"""In which order waiting requests get free places, where budgets count. Pure functions of the situation.

First those that can still be in time, by the latest moment at which they may start. One that could not be, because of
those before it, makes way for all that can: in an overload, serving strictly by deadlines answers every request just
too late. Then those that are late anyway, and those without a budget, in the order of arrival. A request that has
waited long enough goes ahead of all these; one without a budget only where no other such runs, for its steps are wide
and so take longer for all that share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import Annotated

from pydantic import Field

from lts_ray.record import record
from lts_ray.runtime.step_costs import Group, StepCosts
from serve.policies.menu import Menu
from serve.policies.policy import Job, Situation

Milliseconds = Annotated[float, Field(ge=0)]


@record()
class Patience:
    """How long a request waits before it goes ahead of others that are to be in time."""

    unbudgeted_ms: Milliseconds = 40_000.0
    """Without a bound on its start."""
    late_ms: Milliseconds = 60_000.0
    """With a budget that it will miss anyway."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a request takes at the narrowest, among others."""

    step_ms: float
    """Of a full batch."""
    prompt_ms: float
    """For each token of a prompt."""

    def start_by_ms(self, job: Job) -> float:
        """The latest moment at which its prompt may start; infinity where no bound says so."""
        budget, prompt_ms = job.request.budget, self.prompt_ms * job.pending
        steps_ms = self.step_ms * (job.remaining - 1)
        starts = []
        if job.first_ms is None:
            if budget.ttft_ms is not None:
                starts.append(job.arrived_ms + budget.ttft_ms - prompt_ms)
            if budget.e2e_ms is not None:
                starts.append(job.arrived_ms + budget.e2e_ms - prompt_ms - steps_ms)
        else:
            due = budget.last_token_ms(first_token_ms=job.first_ms - job.arrived_ms, max_tokens=job.request.max_tokens)
            if due is not None:
                starts.append(job.arrived_ms + due - prompt_ms - steps_ms)
        return min(starts, default=inf)

    def takes_ms(self, job: Job) -> float:
        prompt_ms = 0.0 if job.decodes else self.prompt_ms * job.pending
        return prompt_ms + self.step_ms * job.remaining


def pace(situation: Situation, menu: Menu, costs: StepCosts) -> Pace:
    rows, chunk, neurons = situation.capacity.slots, situation.capacity.chunk_tokens, menu.narrowest.neurons
    step_ms = costs.step_ms([Group(neurons, rows, 0, rows)])
    chunk_ms = costs.step_ms([Group(neurons, chunk, 0, 1)])
    return Pace(step_ms=step_ms, prompt_ms=chunk_ms / chunk)


def queue_order(situation: Situation, pace: Pace, patience: Patience) -> tuple[int, ...]:
    """The ids of all that wait, the one that is to start first in front."""
    if not situation.waiting:
        return ()
    now = situation.now_ms
    may_start = all(job.bounded for job in situation.running)
    timely: list[tuple[float, float, Job]] = []
    entries: list[tuple[float, float, int]] = []
    for job in situation.waiting:  # in the order of arrival
        if not job.bounded:
            aged = may_start and now - job.arrived_ms >= patience.unbudgeted_ms
            may_start = may_start and not aged
            entries.append((-inf if aged else inf, job.arrived_ms, job.id))
            continue
        start_by = pace.start_by_ms(job)
        if start_by < now:
            entries.append((job.arrived_ms + patience.late_ms, job.arrived_ms, job.id))
        else:
            timely.append((min(start_by, job.arrived_ms + patience.unbudgeted_ms), job.arrived_ms, job))
    timely.sort(key=lambda entry: (entry[0], entry[1], entry[2].id))
    kept = _in_time(situation, pace, [job for _, _, job in timely])
    for start_by, arrived_ms, job in timely:
        moment = start_by if job.id in kept else arrived_ms + patience.late_ms
        entries.append((moment, arrived_ms, job.id))
    return tuple([id for _, _, id in sorted(entries)])


def _in_time(situation: Situation, pace: Pace, jobs: Sequence[Job]) -> frozenset[int]:
    """Ids of those that start in time if places are taken in this order and each that would be late makes way."""
    free = [situation.now_ms] * max(0, situation.capacity.slots - len(situation.running))
    free += [situation.now_ms + pace.takes_ms(job) for job in situation.running]
    heapify(free)
    kept = []
    for job in jobs:
        if free[0] <= pace.start_by_ms(job):
            heappush(free, max(heappop(free), situation.now_ms) + pace.takes_ms(job))
            kept.append(job.id)
    return frozenset(kept)
