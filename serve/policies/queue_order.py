"""In which order waiting requests get free places, where budgets count. Pure functions of the situation.

First those that can still be in time, by the latest moment at which they may start. One that could not be, because of
those before it, makes way for all that can: in an overload, serving strictly by deadlines answers every request just
too late. Those of a higher priority number make way first, where that helps it. Then those that are late anyway, and
those without a budget, by their numbers and in the order of arrival. A request that has waited long enough goes ahead
of all these, whatever its number; one without a budget only where no other such runs, for its steps are wide and so
take longer for all that share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import inf
from typing import Annotated

from pydantic import Field

from lts_ray.record import record
from lts_ray.runtime.step_costs import StepCosts
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
    rows, chunk, narrowest = situation.capacity.slots, situation.capacity.chunk_tokens, menu.narrowest
    step_ms = costs.step_ms([narrowest.group(rows, 0, rows)])
    chunk_ms = costs.step_ms([narrowest.group(chunk, 0, 1)])
    return Pace(step_ms=step_ms, prompt_ms=chunk_ms / chunk)


def queue_order(situation: Situation, pace: Pace, patience: Patience) -> tuple[int, ...]:
    """The ids of all that wait, the one that is to start first in front."""
    if not situation.waiting:
        return ()
    now = situation.now_ms
    may_start = all(job.bounded for job in situation.running)
    timely: list[tuple[float, float, int, float, Job]] = []
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
            moment = min(start_by, job.arrived_ms + patience.unbudgeted_ms)
            timely.append((moment, job.arrived_ms, job.id, start_by, job))
    timely.sort()
    kept = _in_time(situation, pace, [(start_by, job) for _, _, _, start_by, job in timely])
    for moment, arrived_ms, id, _, _ in timely:
        entries.append((moment if id in kept else arrived_ms + patience.late_ms, arrived_ms, id))
    entries.sort()
    priorities = {job.id: job.request.priority for job in situation.waiting}
    first = min(priorities.values())
    if first == max(priorities.values()):
        return tuple([id for _, _, id in entries])
    # Those that wait behind all that are in time change places among themselves.
    ranks = {
        id: first if moment == inf and now - arrived_ms >= patience.unbudgeted_ms else priorities[id]
        for moment, arrived_ms, id in entries
        if moment > now and id not in kept
    }
    ranked = iter(sorted(ranks, key=ranks.__getitem__))
    return tuple([next(ranked) if id in ranks else id for _, _, id in entries])


def _in_time(situation: Situation, pace: Pace, jobs: Sequence[tuple[float, Job]]) -> frozenset[int]:
    """Ids of those that start in time if places are taken in this order and each that would be late makes way.

    jobs: each with the moment by which it must start. Of each priority those in time are the same as if there were none
    of higher numbers.
    """
    now = situation.now_ms
    begin = [now] * max(0, situation.capacity.slots - len(situation.running))
    begin += [now + pace.takes_ms(job) for job in situation.running]
    heapify(begin)
    free = begin.copy()
    kept: list[tuple[int, float, int]] = []
    last = -inf  # the highest priority number among them
    for start_by, job in jobs:
        priority = job.request.priority
        if free[0] > start_by and last > priority:
            without = _taken(begin, [each for each in kept if each[0] <= priority], now)
            while without[0] <= start_by < free[0]:
                kept.remove(max(kept))  # of the highest number the one that takes longest
                free = _taken(begin, kept, now)
            last = max(kept)[0] if kept else -inf
        if free[0] <= start_by:
            takes_ms = pace.takes_ms(job)
            heapreplace(free, max(free[0], now) + takes_ms)
            kept.append((priority, takes_ms, job.id))
            last = max(last, priority)
    return frozenset([id for _, _, id in kept])


def _taken(begin: list[float], kept: Sequence[tuple[int, float, int]], now_ms: float) -> list[float]:
    """When places are free, as a heap, if those that are kept take them from `begin` on."""
    free = begin.copy()
    for _, takes_ms, _ in kept:
        heapreplace(free, max(free[0], now_ms) + takes_ms)
    return free
