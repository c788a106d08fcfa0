"""Which submodel: pure functions of the load, the budgets and the measured cost of a step. No clock, no I/O.

Neurons stand for a submodel's cost (see measurement.cost_model). A step costs what its widest row costs, so a budget
is met by narrowing the whole step: a row with a budget may be narrowed for another one's sake, a row without one, or
one that names its submodel, never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import ceil

from lts_ray.measurement.cost_model import StepCostModel
from serve.budget import Budget, Timing
from serve.menu import Menu, Option

MARGIN = 1.1
"""A prediction is in time if it is so with 10 % to spare: the cost model's usual error, and the work between steps."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A running or waiting request, as the load of another one.

    floor: the fewest neurons it may be narrowed to; its own `neurons` if it may not. context: tokens it holds, or its
    prompt. remaining: the most tokens it will still produce.
    """

    neurons: int
    floor: int
    context: int
    remaining: int

    def capped(self, neurons: int) -> int:
        return max(self.floor, min(self.neurons, neurons))


@dataclass(frozen=True, kw_only=True)
class Load:
    """slots: rows of a step. ahead: who waits and is prefilled first; behind: who waits and joins later.

    steps_before_prefill: decode steps of the running rows that come before the prefills even if a slot is free.
    """

    slots: int
    running: tuple[Row, ...] = ()
    ahead: tuple[Row, ...] = ()
    behind: tuple[Row, ...] = ()
    steps_before_prefill: int = 0


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of the engine. waited_ms: time since arrival. pinned: the submodel the request names."""

    prompt_tokens: int
    max_tokens: int
    budget: Budget
    pinned: Option | None = None
    waited_ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """met: whether the budget is predicted to hold, with the margin; None without a budget."""

    option: Option
    predicted: Timing
    met: bool | None


def choose(menu: Menu, cost: StepCostModel, load: Load, demand: Demand) -> Choice:
    """The best option whose every budget is predicted to hold, else the narrowest with met=False.

    Without a budget the universal model; a pinned option always.
    """
    if demand.pinned is not None or not demand.budget:
        option = menu.universal if demand.pinned is None else demand.pinned
        predicted = predict(cost, load, demand, option.neurons)
        met = demand.budget.holds(predicted, margin=MARGIN) if demand.budget else None
        return Choice(option=option, predicted=predicted, met=met)
    for option in menu.elastic:
        predicted = predict(cost, load, demand, option.neurons)
        if demand.budget.holds(predicted, margin=MARGIN):
            return Choice(option=option, predicted=predicted, met=True)
    return Choice(option=menu.narrowest, predicted=predicted, met=False)


def predict(cost: StepCostModel, load: Load, demand: Demand, neurons: int) -> Timing:
    """What the demand would get at `neurons`, if rows that may be narrowed are narrowed to as many."""
    joining = load.behind[: max(0, load.slots - len(load.running) - 1)]
    company = (*load.running, *load.ahead)
    busy_ms = _step_ms(cost, company, neurons, limit=load.slots)
    steps = _steps_until_slot(load) + load.steps_before_prefill + len(load.ahead)
    own_ms = cost.prefill_ms(tokens=demand.prompt_tokens, neurons=neurons)
    ttft_ms = demand.waited_ms + prefills_ms(cost, load.ahead, neurons) + steps * busy_ms + own_ms

    context = demand.prompt_tokens + demand.max_tokens // 2  # the mean over the response
    own = Row(neurons=neurons, floor=neurons, context=context, remaining=demand.max_tokens)
    step_ms = _step_ms(cost, (*company, *joining), neurons, limit=load.slots - 1, own=own)
    stall_ms = prefills_ms(cost, joining, neurons)
    later = demand.max_tokens - 1
    tpot_ms = step_ms + stall_ms / later if later else 0.0
    return Timing(ttft_ms=ttft_ms, tpot_ms=tpot_ms, e2e_ms=ttft_ms + later * tpot_ms)


def smallest_feasible_budget_ms(menu: Menu, cost: StepCostModel, load: Load, demand: Demand) -> dict[str, float]:
    """For each kind the demand has a budget for: the smallest that `choose` would accept now, to the next 0.1 ms."""
    option = menu.narrowest if demand.pinned is None else demand.pinned
    predicted = predict(cost, load, demand, option.neurons)
    return {kind: ceil(getattr(predicted, f"{kind}_ms") * MARGIN * 10) / 10 for kind in demand.budget.items()}


@dataclass(frozen=True, kw_only=True)
class Running:
    """A row between steps. left_ms: time until its last token is due; None without a budget that still binds.

    may_narrow: it has a budget and names no submodel.
    """

    option: Option
    context: int
    remaining: int
    may_narrow: bool
    left_ms: float | None


def replan(menu: Menu, cost: StepCostModel, rows: Sequence[Running], *, stall_ms: float = 0.0) -> tuple[Option, ...]:
    """Each row's option for the next step: its own, or a narrower one where budgets would be missed otherwise.

    One cap holds for all rows that may be narrowed, because the widest sets the price: the widest cap under which the
    most budgets hold. A row that misses its budget even so goes on at the narrowest. Never wider than before.
    """
    current = tuple(row.option for row in rows)
    if _in_time(cost, rows, current, stall_ms) == len(rows) or not any(row.may_narrow for row in rows):
        return current
    plans = [current, *(_capped(rows, cap) for cap in menu.elastic)]
    best = max(plans, key=lambda plan: _in_time(cost, rows, plan, stall_ms))  # the first, so the widest, of equals
    step_ms = _plan_ms(cost, rows, best)
    return tuple(
        option if _is_in_time(row, step_ms, stall_ms) or not row.may_narrow else _narrower(option, menu.narrowest)
        for row, option in zip(rows, best, strict=True)
    )


def drain_s(cost: StepCostModel, load: Load) -> int:
    """When, in whole seconds from 1 on, the rows that run now will have ended at the latest."""
    neurons = [row.neurons for row in load.running]
    step_ms = cost.decode_ms(neurons=neurons, context_tokens=sum(row.context for row in load.running))
    return max(1, ceil(max((row.remaining for row in load.running), default=0) * step_ms / 1e3))


def prefills_ms(cost: StepCostModel, rows: Sequence[Row], cap: int) -> float:
    """The time for which the prefills of `rows` hold up those that run."""
    return sum(cost.prefill_ms(tokens=row.context, neurons=row.capped(cap)) for row in rows)


def _steps_until_slot(load: Load) -> int:
    """Decode steps until a slot is free, if every request ahead takes the first one and all produce all they may."""
    ends = [0] * max(0, load.slots - len(load.running)) + [row.remaining for row in load.running]
    heapify(ends)
    for row in load.ahead:
        heappush(ends, heappop(ends) + row.remaining)
    return ends[0]


def _step_ms(cost: StepCostModel, rows: Sequence[Row], cap: int, *, limit: int, own: Row | None = None) -> float:
    """A decode step of `own` and of as many of `rows` as fit: the widest ones, and the longest ones.

    Taking both maxima apart bounds every selection from above, and more load never makes a step cheaper.
    """
    widest = sorted((row.capped(cap) for row in rows), reverse=True)[:limit]
    longest = sorted((row.context for row in rows), reverse=True)[:limit]
    if own is not None:
        widest.append(own.neurons)
        longest.append(own.context)
    return cost.decode_ms(neurons=widest, context_tokens=sum(longest))


def _plan_ms(cost: StepCostModel, rows: Sequence[Running], plan: Sequence[Option]) -> float:
    return cost.decode_ms(neurons=[option.neurons for option in plan], context_tokens=sum(row.context for row in rows))


def _narrower(option: Option, cap: Option) -> Option:
    return option if option.neurons <= cap.neurons else cap


def _capped(rows: Sequence[Running], cap: Option) -> tuple[Option, ...]:
    return tuple(_narrower(row.option, cap) if row.may_narrow else row.option for row in rows)


def _is_in_time(row: Running, step_ms: float, stall_ms: float) -> bool:
    return row.left_ms is None or (row.remaining * step_ms + stall_ms) * MARGIN <= row.left_ms


def _in_time(cost: StepCostModel, rows: Sequence[Running], plan: Sequence[Option], stall_ms: float) -> int:
    step_ms = _plan_ms(cost, rows, plan)
    return sum(_is_in_time(row, step_ms, stall_ms) for row in rows)
