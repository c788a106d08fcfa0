"""What a request that joins the queue now would get under the policy that decides; strict ones are refused by it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from math import ceil

from lts_ray.runtime.step_costs import StepCosts
from serve.policies.budget import Budget, Kind, Timing
from serve.policies.deviation import Deviation
from serve.policies.forecast import Forecast, forecast, foresees
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Plan, Policy, Situation

MAX_ROUNDS = 8
"""Of looking for a feasible budget: a looser one may wait longer, so the first guess is not always kept."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    option: Option
    """What it would start with."""
    predicted: Timing
    """If all went on as it begins."""
    met: bool | None
    """Whether the budget is predicted to hold so, and safely once all are at the narrowest that may be; None without a
    budget."""
    forecast: Forecast
    """Of all that would run and wait then; the last of its caps is the narrowest that may be."""


def judge(situation: Situation, job: Job, menu: Menu, costs: StepCosts, policy: Policy) -> Choice:
    """What `job` gets if it joins the queue now. The policy is left as it is: it may remember what it decided last."""
    joined = Situation(
        now_ms=situation.now_ms,
        running=situation.running,
        waiting=(*situation.waiting, job),
        capacity=situation.capacity,
        deviation=situation.deviation,
    )
    plan, predicted = _foresee(policy, joined, menu, costs)
    budget, timing, narrowest = job.request.budget, predicted.timing(job.id, 0), predicted.timing(job.id, -1)
    met = budget.holds(timing) and budget.holds(_safely(narrowest, budget, situation.deviation)) if budget else None
    return Choice(option=plan.options[job.id], predicted=timing, met=met, forecast=predicted)


def on_admission(
    situation: Situation, options: Mapping[int, Option], menu: Menu, costs: StepCosts, policy: Policy
) -> Forecast:
    """What all that run and wait will get if none joins, its first cap that of the plan which the policy follows.

    options: of the jobs in the step that begins; a policy without a forecast of its own is taken to go on so. The
    policy is left as it is.
    """
    if foresees(policy):
        return policy.foresee(situation, menu, costs)[1]
    widths = {job.id: options.get(job.id, job.option or menu.universal).shape for job in situation.jobs}
    order = [job.id for job in situation.waiting]
    return forecast(situation, order=order, widths=widths, caps=[0], costs=costs)


def smallest_feasible_budget_ms(
    situation: Situation, job: Job, menu: Menu, costs: StepCosts, policy: Policy
) -> dict[str, float]:
    """For each kind that the job has a bound of: one that `judge` would find to hold now, to the next 0.1 ms.

    First what it would get with all at the narrowest; where the policy gives less, what that gives.
    """
    joined = replace(situation, waiting=(*situation.waiting, job))
    plan = copy(policy).plan(joined, menu, costs)
    fixed = {other.id: plan.options[other.id].shape for other in joined.jobs if not other.elastic}
    narrow = forecast(joined, order=plan.order, widths=fixed, caps=[menu.narrowest.shape], costs=costs)
    bounds = _bounds(job, narrow.timing(job.id), situation.deviation)
    for _ in range(MAX_ROUNDS):
        budget = Budget(**{f"{kind}_ms": limit for kind, limit in bounds.items()})
        asking = replace(job, request=replace(job.request, budget=budget))
        choice = judge(situation, asking, menu, costs, policy)
        if choice.met:
            break
        given = _bounds(job, choice.predicted, situation.deviation)
        bounds = {kind: max(limit, given[kind]) for kind, limit in bounds.items()}
    return bounds


def drain_s(situation: Situation, costs: StepCosts) -> int:
    """When, in whole seconds from 1 on, the requests that run now will have ended at the latest."""
    alone = replace(situation, waiting=())
    if not alone.running:
        return 1
    options = {job.id: job.option for job in alone.running if job.option is not None}
    widths = {id: option.shape for id, option in options.items()}
    widest = max(options.values(), key=lambda option: costs.quiet_ms([option.group(1, 0, 1)]), default=None)
    cap = 0 if widest is None else widest.shape
    predicted = forecast(alone, order=(), widths=widths, caps=[cap], costs=costs)
    return max(1, ceil((float(predicted.last_ms.max()) - situation.now_ms) / 1e3))


def _foresee(policy: Policy, situation: Situation, menu: Menu, costs: StepCosts) -> tuple[Plan, Forecast]:
    """The policy's own forecast where it has one; else all go on at the width of the plan, under any cap.

    The policy is left as it is."""
    if foresees(policy):
        return policy.foresee(situation, menu, costs)
    plan = copy(policy).plan(situation, menu, costs)
    widths = {job.id: plan.options[job.id].shape for job in situation.jobs}
    return plan, forecast(situation, order=plan.order, widths=widths, caps=[0], costs=costs)


def _safely(timing: Timing, budget: Budget, deviation: Deviation) -> Timing:
    """What it comes to as often as budgets are to be kept, of the kinds that the budget has."""
    ahead: dict[Kind, float] = {"ttft": timing.ttft_ms, "tpot": timing.e2e_ms - timing.ttft_ms, "e2e": timing.e2e_ms}
    safe = {kind: deviation.then(kind, ahead[kind])[1] for kind in budget.items()}
    return replace(timing, **{f"{kind}_ms": getattr(timing, f"{kind}_ms") * safe[kind] for kind in safe})


def _bounds(job: Job, timing: Timing, deviation: Deviation) -> dict[str, float]:
    safe = _safely(timing, job.request.budget, deviation)
    return {kind: ceil(getattr(safe, f"{kind}_ms") * 10) / 10 for kind in job.request.budget.items()}
