"""When every request would get its tokens if no other came.

Which rows take part in which step does not depend on how long the steps last. So the steps are rolled out once, from
event to event, and then priced under every cap at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from struct import Struct
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lts_ray.runtime.step_costs import StepCosts
from serve.policies import compiled
from serve.policies.budget import Kind, Timing
from serve.policies.deviation import Deviation
from serve.policies.menu import Menu, neurons_of, planes_of
from serve.policies.policy import Job, Plan, Policy, Situation
from serve.policies.rollout import NONE_HELD, Holding, Rollout, RolloutRow

Array = NDArray[np.float64]
NUMBER = Struct("d")
NEVER = 1e15
"""Milliseconds. A bound that no prediction reaches; finite, so that a share of it is one."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    now_ms: float
    jobs: tuple[Job, ...]
    """Running, then waiting in their order."""
    caps: int
    """Of how many it is."""
    tables: tuple[bytes, bytes]
    """`first_ms` and `last_ms`, packed."""

    @cached_property
    def first_ms(self) -> Array:
        """When first tokens come, on the clock: [caps, jobs]."""
        return self._unpacked(self.tables[0])

    @cached_property
    def last_ms(self) -> Array:
        """When last tokens come: [caps, jobs]."""
        return self._unpacked(self.tables[1])

    def timing(self, job_id: int, cap: int = 0) -> Timing:
        """What the job gets, from its arrival on, under the cap with index `cap`."""
        column = next(index for index, job in enumerate(self.jobs) if job.id == job_id)
        job, place = self.jobs[column], NUMBER.size * (cap % self.caps * len(self.jobs) + column)
        (first,), (last,) = [NUMBER.unpack_from(table, place) for table in self.tables]
        return Timing(
            ttft_ms=first - job.arrived_ms,
            tpot_ms=(last - first) / max(1, job.request.max_tokens - 1),
            e2e_ms=last - job.arrived_ms,
        )

    def under(self, caps: Sequence[int]) -> Forecast:
        """The same for these caps alone, given by their indices."""
        first, last = [values[list(caps)].tobytes() for values in (self.first_ms, self.last_ms)]
        return replace(self, caps=len(caps), tables=(first, last))

    def odds(self, deviation: Deviation, *, hopeless: float) -> Array:
        """[caps, jobs]: how likely each budget is to hold, by the time left for it over the time predicted for it.

        0 with less than `hopeless` times what is likely, 1 with what is safe, evenly between. Only what is still to
        come can turn out otherwise, so a reserve is one of the future alone. 0 for a bound that is missed already, and
        for jobs without a budget.
        """
        if compiled.decision is not None:
            return self._unpacked(compiled.decision.odds(self.jobs, self.now_ms, *self.tables, deviation, hopeless))
        jobs, now, budgets = self.jobs, self.now_ms, [job.request.budget for job in self.jobs]
        odds = np.zeros(self.last_ms.shape)
        odds += [job.bounded for job in jobs]

        def take(kind: Kind, left_ms: Array, needed_ms: Array, came: Array | None = None) -> None:
            needed_ms = np.maximum(needed_ms, 1e-9)
            likely, safe = deviation.at(kind, needed_ms)
            lost = hopeless * likely
            chance = (left_ms / needed_ms - lost) / (safe - lost)
            if came is not None:  # once the first token is there, it is a fact
                chance = np.where(came, left_ms >= 0, chance)
            np.minimum(odds, np.maximum(chance, 0.0), out=odds)

        # Of a kind of bound that no job has nothing is to be said: most have one of e2e alone.
        if any(budget.ttft_ms is not None for budget in budgets):
            due = np.array([job.arrived_ms + _bound(job.request.budget.ttft_ms) for job in jobs])
            came = np.array([job.first_ms is not None for job in jobs])
            take("ttft", due - np.where(came, self.first_ms, now), self.first_ms - now, came)
        if any(budget.e2e_ms is not None for budget in budgets):
            left = np.array([job.arrived_ms + _bound(job.request.budget.e2e_ms) - now for job in jobs])
            take("e2e", left, self.last_ms - now)
        if any(budget.tpot_ms is not None for budget in budgets):
            between = np.array(
                [_bound(job.request.budget.tpot_ms) * max(1, job.request.max_tokens - 1) for job in jobs]
            )
            begun = np.maximum(self.first_ms, now)
            take("tpot", self.first_ms + between - begun, self.last_ms - begun)
        return odds

    def _unpacked(self, table: bytes) -> Array:
        return np.frombuffer(table).reshape(self.caps, -1) if table else np.zeros((self.caps, 0))


@runtime_checkable
class Foreseeing(Protocol):
    """A policy that says itself what its plan will come to, because it does not go on as it begins."""

    def foresee(self, situation: Situation, menu: Menu, costs: StepCosts) -> tuple[Plan, Forecast]:
        """The forecast has two caps: what the policy takes for now, and the narrowest that it could take.

        The policy is left as it is."""
        ...


def foresees(policy: Policy) -> TypeGuard[Foreseeing]:
    return _foresees(type(policy))


@cache
def _foresees(kind: type) -> bool:
    return issubclass(kind, Foreseeing)


def forecast(
    situation: Situation,
    *,
    order: Sequence[int],
    widths: Mapping[int, int],
    caps: Sequence[int],
    costs: StepCosts,
    holding: Holding = NONE_HELD,
) -> Forecast:
    """widths: shapes of the jobs whose width is fixed, by id; all others run at the cap. caps: shapes, as Option's.

    order: ids of the waiting jobs, as in a Plan.
    """
    by_id = {job.id: job for job in situation.waiting}
    waiting = tuple([by_id[id] for id in order])
    jobs, now_ms = (*situation.running, *waiting), situation.now_ms
    if compiled.decision is not None:
        held, every, wait = holding.ids, holding.every, holding.wait
        tables = compiled.decision.forecast(
            situation.running, waiting, now_ms, situation.capacity, dict(widths), caps, costs, held, every, wait
        )
        return Forecast(now_ms=now_ms, jobs=jobs, caps=len(caps), tables=tables)
    fixed = sorted({widths[job.id] for job in jobs if job.id in widths}, key=neurons_of)
    kinds = {shape: kind for kind, shape in enumerate(fixed)}
    rows = [RolloutRow(job, kinds.get(widths.get(job.id, -1), len(fixed)), job.id in holding.ids) for job in jobs]
    rollout = Rollout(kinds=len(fixed) + 1, capacity=situation.capacity)
    begun = len(situation.running)
    rollout.roll(rows[:begun], rows[begun:], holding)
    ends = np.zeros((len(caps), len(rollout.steps) + 1))
    if rollout.steps:
        most_rows = max(situation.capacity.chunk_tokens, situation.capacity.slots, begun) + 1
        price = _prices_by_plane if costs.beside else _prices
        prices = price(rollout, fixed=fixed, caps=caps, costs=costs, most_rows=most_rows)
        np.cumsum(prices, axis=1, out=ends[:, 1:])
    ends += now_ms
    first_ms = ends[:, [row.first for row in rows]]
    for index, job in enumerate(jobs):
        if job.first_ms is not None:
            first_ms[:, index] = job.first_ms
    tables = first_ms.tobytes(), ends[:, [row.last for row in rows]].tobytes()
    return Forecast(now_ms=now_ms, jobs=jobs, caps=len(caps), tables=tables)


def _prices(rollout: Rollout, *, fixed: Sequence[int], caps: Sequence[int], costs: StepCosts, most_rows: int) -> Array:
    """[caps, stretches]: the time of each stretch's steps, as StepCosts.step_ms has it. most_rows: of a step."""
    fixed, caps = list(map(neurons_of, fixed)), list(map(neurons_of, caps))
    base, neuron, head = curves(costs.grid, costs.base, costs.neuron, costs.head, most_rows=most_rows)
    prompt_ms = costs.attended if costs.prompt_attended is None else costs.prompt_attended
    per_neuron, factors, others = [], [], []  # of each stretch, in lists: most have few, and numpy is slow to begin
    for steps, rows, logits, attended, prompt_attended in zip(
        rollout.steps, rollout.rows, rollout.logits, rollout.attended, rollout.prompt_attended, strict=True
    ):
        total, asking = sum(rows), sum(logits)
        slowdown = costs.slowdown * costs.prompt_slowdown if total > asking else costs.slowdown
        quiet = (
            (costs.once + base[total] + head[asking]) * steps + costs.attended * attended + prompt_ms * prompt_attended
        )
        per_neuron.append(neuron[total])
        factors.append(slowdown * steps)
        others.append(slowdown * quiet + costs.overhead_ms * steps)
    widths = np.array(caps, dtype=np.float64)[:, None]
    if not fixed:
        return np.asarray(widths * (np.array(per_neuron) * factors) + others)
    # The fixed widths cut the neurons into bands; each band runs for the fixed rows that reach it, and for the rows at
    # the cap as far as the cap reaches.
    kinds = np.array(rollout.rows).T  # [kinds, stretches]
    reaching = np.cumsum(kinds[::-1], axis=0)[::-1] - kinds[-1]  # [bands, stretches], the last: above all fixed ones
    below, above = np.array([0.0, *fixed]), np.array([*fixed, NEVER])
    shared = np.minimum(np.maximum(widths, below), above) - below  # [caps, bands]
    alone = np.where(above < NEVER, above - below - shared, 0.0)
    of_rows = np.array(neuron)
    return np.asarray((shared @ of_rows[reaching + kinds[-1]] + alone @ of_rows[reaching]) * factors + others)


def _prices_by_plane(
    rollout: Rollout, *, fixed: Sequence[int], caps: Sequence[int], costs: StepCosts, most_rows: int
) -> Array:
    """As `_prices`, of weights that are kept in several planes: each has the rows of those shapes that read it."""
    steps, rows, logits = np.array(rollout.steps), np.array(rollout.rows).T, np.array(rollout.logits).T
    quiet = np.full((len(caps), len(steps)), costs.once)
    for bit, *columns in costs.curves:
        base, neuron, head = map(np.array, curves(costs.grid, *columns, most_rows=most_rows))
        for place, cap in enumerate(caps):
            shapes = [*fixed, cap]
            kinds = sorted(
                [kind for kind, each in enumerate(shapes) if planes_of(each) & bit],
                key=lambda kind: neurons_of(shapes[kind]),
            )
            if kinds:
                reaching = np.cumsum(rows[kinds][::-1], axis=0)[::-1]  # [kinds, stretches]: rows at least as wide
                bands = np.diff([0, *[neurons_of(shapes[kind]) for kind in kinds]])
                quiet[place] += base[reaching[0]] + head[logits[kinds].sum(axis=0)] + bands @ neuron[reaching]
    slowdown = costs.slowdown * np.where(rows.sum(axis=0) > logits.sum(axis=0), costs.prompt_slowdown, 1.0)
    prompt_ms = costs.attended if costs.prompt_attended is None else costs.prompt_attended
    looked_ms = costs.attended * np.array(rollout.attended) + prompt_ms * np.array(rollout.prompt_attended)
    return np.asarray(slowdown * (quiet * steps + looked_ms) + costs.overhead_ms * steps)


@lru_cache(maxsize=16)
def curves(grid: tuple[int, ...], *values_at: tuple[float, ...], most_rows: int) -> tuple[list[float], ...]:
    """The curves' values for each number of rows from none, which costs nothing, on."""
    far, tables = 10**7, []
    for values in values_at:
        slope = values[0] if len(grid) == 1 else (values[-1] - values[-2]) / (grid[-1] - grid[-2])
        heights = [0.0, *values, values[-1] + slope * (far - grid[-1])]
        tables.append(np.interp(np.arange(most_rows + 1), [0, *grid, far], heights).tolist())
    return tuple(tables)


def _bound(limit_ms: float | None) -> float:
    return NEVER if limit_ms is None else limit_ms
