"""When every request would get its tokens if no other came.

Which rows take part in which step does not depend on how long the steps last. So the steps are rolled out once, from
event to event, and then priced under every cap at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import Timing
from serve.policies.deviation import Deviation
from serve.policies.menu import Menu
from serve.policies.policy import Job, Plan, Situation
from serve.policies.rollout import NONE_HELD, Holding, Rollout, RolloutRow

Array = NDArray[np.float64]
NEVER = 1e15
"""Milliseconds. A bound that no prediction reaches; finite, so that a share of it is one."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    now_ms: float
    jobs: tuple[Job, ...]
    """Running, then waiting in their order."""
    first_ms: Array
    """When first tokens come, on the clock: [caps, jobs]."""
    last_ms: Array
    """When last tokens come: [caps, jobs]."""

    def timing(self, job_id: int, cap: int = 0) -> Timing:
        """What the job gets, from its arrival on, under the cap with index `cap`."""
        column = next(index for index, job in enumerate(self.jobs) if job.id == job_id)
        job, first, last = self.jobs[column], self.first_ms[cap, column], self.last_ms[cap, column]
        return Timing(
            ttft_ms=float(first - job.arrived_ms),
            tpot_ms=float(last - first) / max(1, job.request.max_tokens - 1),
            e2e_ms=float(last - job.arrived_ms),
        )

    def under(self, caps: Sequence[int]) -> Forecast:
        """The same for these caps alone, given by their indices."""
        return replace(self, first_ms=self.first_ms[list(caps)], last_ms=self.last_ms[list(caps)])

    def odds(self, deviation: Deviation, *, hopeless: float) -> Array:
        """[caps, jobs]: how likely each budget is to hold, by the time left for it over the time predicted for it.

        0 with less than `hopeless` times what is likely, 1 with what is safe, evenly between. Only what is still to
        come can turn out otherwise, so a reserve is one of the future alone. 0 for a bound that is missed already, and
        for jobs without a budget.
        """
        jobs, now = self.jobs, self.now_ms
        came = np.array([job.first_ms is not None for job in jobs])
        arrived = np.array([job.arrived_ms for job in jobs])
        later = np.array([max(1, job.request.max_tokens - 1) for job in jobs])
        bounds = np.array([_bounds(job) for job in jobs]).reshape(len(jobs), 3)
        ttft, tpot, e2e = bounds[:, 0], bounds[:, 1], bounds[:, 2]

        begun = np.maximum(self.first_ms, now)
        # First token, last token, and the tokens between them: [3, caps, jobs].
        left_ms = np.stack(
            np.broadcast_arrays(arrived + ttft - now, arrived + e2e - now, self.first_ms + tpot * later - begun)
        )
        needed_ms = np.maximum(np.stack([self.first_ms - now, self.last_ms - now, self.last_ms - begun]), 1e-9)
        likely, safe = deviation.at(needed_ms)
        lost = hopeless * likely
        odds = np.clip((left_ms / needed_ms - lost) / (safe - lost), 0.0, 1.0)
        odds[0] = np.where(
            came, self.first_ms - arrived <= ttft, odds[0]
        )  # once the first token is there, it is a fact
        bounded = np.array([job.bounded for job in jobs])
        return np.asarray(odds.min(axis=0) * bounded)


@runtime_checkable
class Foreseeing(Protocol):
    """A policy that says itself what its plan will come to, because it does not go on as it begins."""

    def foresee(self, situation: Situation, menu: Menu, costs: StepCosts) -> tuple[Plan, Forecast]:
        """The forecast has two caps: what the policy takes for now, and the narrowest that it could take."""
        ...


def forecast(
    situation: Situation,
    *,
    order: Sequence[int],
    widths: Mapping[int, int],
    caps: Sequence[int],
    costs: StepCosts,
    holding: Holding = NONE_HELD,
) -> Forecast:
    """widths: neurons of the jobs whose width is fixed, by id; all others run at the cap. caps: neurons.

    order: ids of the waiting jobs, as in a Plan.
    """
    by_id = {job.id: job for job in situation.waiting}
    jobs = (*situation.running, *(by_id[id] for id in order))
    fixed = sorted({widths[job.id] for job in jobs if job.id in widths})
    kinds = {neurons: kind for kind, neurons in enumerate(fixed)}
    rows = [RolloutRow(job, kinds.get(widths.get(job.id, -1), len(fixed)), job.id in holding.ids) for job in jobs]
    rollout = Rollout(kinds=len(fixed) + 1, capacity=situation.capacity)
    begun = len(situation.running)
    rollout.roll(rows[:begun], rows[begun:], holding)
    ends = np.zeros((len(caps), len(rollout.steps) + 1))
    ends[:, 1:] = np.cumsum(_prices(rollout, fixed=fixed, caps=caps, costs=costs), axis=1)
    ends += situation.now_ms
    first_ms = ends[:, [row.first for row in rows]]
    for index, job in enumerate(jobs):
        if job.first_ms is not None:
            first_ms[:, index] = job.first_ms
    return Forecast(now_ms=situation.now_ms, jobs=jobs, first_ms=first_ms, last_ms=ends[:, [row.last for row in rows]])


def _prices(rollout: Rollout, *, fixed: Sequence[int], caps: Sequence[int], costs: StepCosts) -> Array:
    """[caps, stretches]: the time of each stretch's steps, as StepCosts.step_ms has it."""
    if not rollout.steps:
        return np.zeros((len(caps), 0))
    rows = np.array(rollout.rows).T  # [kinds, stretches]
    steps, logits = np.array(rollout.steps), np.array(rollout.logits)
    # The fixed widths cut the neurons into bands; each band runs for the fixed rows that reach it, and for the rows
    # at the cap as far as the cap reaches.
    reaching = np.cumsum(rows[::-1], axis=0)[::-1] - rows[-1]  # [bands, stretches], the last band: above all fixed ones
    below = np.array([0, *fixed], dtype=np.float64)
    above = np.array([*fixed, NEVER])
    shared = np.clip(np.array(caps, dtype=np.float64)[:, None], below, above) - below  # [caps, bands]
    alone = np.where(above < NEVER, above - below - shared, 0.0)
    grid, neuron = _extended(costs.grid, costs.neuron)
    per_step = shared @ np.interp(reaching + rows[-1], grid, neuron) + alone @ np.interp(reaching, grid, neuron)
    total = rows.sum(axis=0)
    per_step += np.interp(total, *_extended(costs.grid, costs.base))
    per_step += np.interp(logits, *_extended(costs.grid, costs.head))
    prompt_ms = costs.attended if costs.prompt_attended is None else costs.prompt_attended
    quiet = per_step * steps + costs.attended * np.array(rollout.attended)
    quiet += prompt_ms * np.array(rollout.prompt_attended)
    slowdown = np.where(total > logits, costs.slowdown * costs.prompt_slowdown, costs.slowdown)
    return np.asarray(quiet * slowdown + costs.overhead_ms * steps)


def _extended(grid: Sequence[int], values: Sequence[float]) -> tuple[Array, Array]:
    """With a point at no rows, which cost nothing, and one far out on the line through the last two."""
    far = 10**7
    slope = values[0] if len(grid) == 1 else (values[-1] - values[-2]) / (grid[-1] - grid[-2])
    end = values[-1] + slope * (far - grid[-1])
    return np.array([0, *grid, far], dtype=np.float64), np.array([0.0, *values, end])


def _bounds(job: Job) -> tuple[float, float, float]:
    budget = job.request.budget
    return (
        NEVER if budget.ttft_ms is None else budget.ttft_ms,
        NEVER if budget.tpot_ms is None else budget.tpot_ms,
        NEVER if budget.e2e_ms is None else budget.e2e_ms,
    )
