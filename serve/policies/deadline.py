"""The best submodel with which all admitted budgets are still predicted to hold, anew as slack grows or shrinks.

A step costs what its widest member costs, so one cap holds for all requests whose width may be chosen: the widest
under which about as many budgets are predicted to hold as under any. Where requests that may not be narrowed keep the
steps wide, and budgets would be missed for it, these sit out most steps for a while. In a step with them, all others
are as wide as costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Annotated

from pydantic import Field

from lts_ray.record import record
from lts_ray.runtime.step_costs import Group, StepCosts
from serve.policies import compiled
from serve.policies.fixed import own_option
from serve.policies.forecast import Array, Forecast, forecast
from serve.policies.menu import Menu, Option
from serve.policies.policy import Job, Plan, Situation
from serve.policies.queue_order import Patience, pace, queue_order
from serve.policies.rollout import NONE_HELD, Holding

STALE_MS = 50.0
"""No decision is kept longer: what steps cost may have changed."""
Span = tuple[int, int | None]
"""Of the menu's elastic options: the first, and the one before which it stops; None: to the end."""
ALL: Span = (0, None)

Share = Annotated[float, Field(ge=0)]


@record(what="deadline")
class Thresholds(Patience):
    hopeless: Annotated[float, Field(ge=0, le=1)] = 0.9
    """With less than this share of the time that it is likely to take a budget counts as lost; above it, its odds grow
    evenly up to the time within which it is safe (see Deviation)."""
    worth: Share = 0.01
    """The share of the budgets kept under any cap that a narrower one must be expected to save, or the wider one is
    taken."""
    worth_most: Share = 0.6
    """So many budgets saved are always worth a narrower cap, however many are kept in all."""
    hold_worth: Share = 0.5
    """How many budgets must be saved by holding rows back."""
    hold_every: tuple[Annotated[int, Field(ge=2, le=10**6)], ...] = (2, 4)
    """Held rows run in each so-many-th step: these are tried one after the other while budgets are still missed."""
    free: Share = 0.03
    """The share by which a step may take longer so that rows in it are wider."""
    renewed: Annotated[float, Field(ge=0, le=1)] = 0.2
    """A decision is kept, while no request comes, for this share of the time to the nearest bound that is not lost."""
    spacing_ms: Share = 0.4
    """It is kept for so long times the number of requests at least, and while some queue, even if more come."""


@dataclass(kw_only=True, slots=True)
class _Decision:
    at_ms: float
    """When it was made."""
    jobs: frozenset[int]
    """The requests that it was made for. It holds for them when some have ended, too."""
    fixed: frozenset[int]
    """Those of them that are not elastic: while all of these are there, steps are as wide as it says."""
    until_ms: float
    """When it is made anew, though no request has come."""
    order: tuple[int, ...]
    cap: Option
    """Of elastic requests."""
    alone: Option
    """What elastic rows that decode get in a step without the held rows."""
    together: Option
    """What they get in a step with the held rows."""
    late: frozenset[int]
    """Requests that will miss their budgets even at the narrowest."""
    holding: Holding
    jobs_ahead: tuple[Job, ...]
    """As its forecast has them."""
    tables: tuple[bytes, bytes]
    """Of that forecast, of two caps: its own, and the narrowest for all."""

    @property
    def predicted(self) -> Forecast:
        return Forecast(now_ms=self.at_ms, jobs=self.jobs_ahead, caps=2, tables=self.tables)


@dataclass(kw_only=True)
class DeadlinePolicy:
    thresholds: Thresholds = field(default_factory=Thresholds)
    span: Span = ALL
    """The elastic options that it chooses among."""
    name: str = "deadline"
    last: _Decision | None = field(default=None, repr=False)
    """The newest decision. It saves time, and tells when held rows are to run again; without it, they run now."""

    def plan(self, situation: Situation, menu: Menu, costs: StepCosts) -> Plan:
        last = self.last
        if last is None or not (_holds(last, situation) or self._is_too_early(last, situation)):
            self.last = last = self._decide(situation, menu, costs)
        elif last.holding.ids:
            self.last = last = replace(last, holding=_next(last.holding))
        return _plan(last, situation, menu, -inf if last.holding.ids else last.until_ms)

    def foresee(self, situation: Situation, menu: Menu, costs: StepCosts) -> tuple[Plan, Forecast]:
        """The plan, and the forecast of two caps: its own, and the narrowest for all. As decided last if that holds."""
        last = self.last
        if last is None or not _holds(last, situation):
            last = self._decide(situation, menu, costs)
        return _plan(last, situation, menu), last.predicted

    def _is_too_early(self, last: _Decision, situation: Situation) -> bool:
        """Whether not to decide anew yet, though requests came: with many in the queue that takes about as long as a
        short step, and a request behind many others can wait for it."""
        jobs = len(situation.running) + len(situation.waiting)
        passed_ms = situation.now_ms - last.at_ms
        return jobs > situation.capacity.slots and 0 <= passed_ms < self.thresholds.spacing_ms * jobs

    def _decide(self, situation: Situation, menu: Menu, costs: StepCosts) -> _Decision:
        waiting = situation.waiting if len(situation.waiting) < 2 else self._in_order(situation, menu, costs)
        decide = self._decide_slowly if compiled.decision is None else self._decide_compiled
        return decide(situation, waiting, menu, costs)

    def _in_order(self, situation: Situation, menu: Menu, costs: StepCosts) -> tuple[Job, ...]:
        running, waiting, now_ms = situation.running, situation.waiting, situation.now_ms
        if compiled.decision is not None:
            given = running, waiting, now_ms, situation.capacity, menu, costs, self.thresholds
            ordered: tuple[Job, ...] | None = compiled.decision.order(*given)
            if ordered is not None:
                return ordered
        places = queue_order(situation, pace(situation, menu, costs), self.thresholds)
        return tuple(sorted(waiting, key=lambda job: places.index(job.id)))

    def _decide_compiled(
        self, situation: Situation, waiting: tuple[Job, ...], menu: Menu, costs: StepCosts
    ) -> _Decision:
        assert compiled.decision is not None
        start, stop, _ = slice(*self.span).indices(len(menu.elastic))
        running, now_ms, wait = situation.running, situation.now_ms, _wait(self.last)
        deciding = running, waiting, now_ms, situation.capacity, menu, start, stop, costs, situation.deviation
        jobs, fixed, late, held, every, wait, cap, alone, together, nearest_ms, *tables = compiled.decision.decide(
            *deciding, self.thresholds, wait
        )
        return _Decision(
            at_ms=now_ms,
            until_ms=self._until_ms(now_ms, nearest_ms, len(jobs)),
            jobs=jobs,
            fixed=fixed,
            order=tuple([job.id for job in waiting]),
            cap=menu.elastic[cap],
            alone=menu.elastic[alone],
            together=menu.elastic[together],
            late=late,
            holding=Holding(ids=held, every=every, wait=wait) if held else NONE_HELD,
            jobs_ahead=(*running, *waiting),
            tables=tuple(tables),
        )

    def _until_ms(self, now_ms: float, nearest_ms: float, jobs: int) -> float:
        left_ms = self.thresholds.renewed * (nearest_ms - now_ms)
        return now_ms + min(STALE_MS, max(left_ms, self.thresholds.spacing_ms * jobs))

    def _decide_slowly(self, situation: Situation, waiting: tuple[Job, ...], menu: Menu, costs: StepCosts) -> _Decision:
        """The same in Python, where nothing was compiled."""
        jobs, order = situation.jobs, tuple([job.id for job in waiting])
        holding, predicted, odds = self._hold(situation, order, menu, costs)
        kept = odds.sum(axis=1).tolist()
        options = menu.elastic[slice(*self.span)]
        best = max(kept)
        least = best - min(self.thresholds.worth * best, self.thresholds.worth_most)
        cap = next(option for option, saved in zip(options, kept, strict=True) if saved >= least)  # the widest such
        chances = zip(predicted.jobs, odds[-1].tolist(), strict=True)
        late = frozenset([job.id for job, chance in chances if chance == 0 and job.elastic])
        if late and all(job.id in late for job in jobs if job.elastic):
            cap = options[-1]
        free = [job for job in situation.running if job.id not in holding.ids]
        nearest_ms = min([job.due_ms for job in jobs if job.elastic and job.id not in late], default=inf)
        return _Decision(
            at_ms=situation.now_ms,
            until_ms=self._until_ms(situation.now_ms, nearest_ms, len(jobs)),
            jobs=frozenset([job.id for job in jobs]),
            fixed=_fixed(situation),
            order=order,
            cap=cap,
            alone=self._widened(cap, free, situation, menu, costs),
            together=self._widened(cap, situation.running, situation, menu, costs),
            late=late,
            holding=holding,
            jobs_ahead=predicted.jobs,
            tables=predicted.under((options.index(cap), len(options) - 1)).tables,
        )

    def _hold(
        self, situation: Situation, order: Sequence[int], menu: Menu, costs: StepCosts
    ) -> tuple[Holding, Forecast, Array]:
        """Which rows to hold back and how rarely they run, the forecast, and the odds under each cap: [caps, jobs]."""
        jobs = situation.jobs
        widths = {job.id: own_option(job, menu).shape for job in jobs if not job.elastic}
        caps = [option.shape for option in menu.elastic[slice(*self.span)]]

        def expect(holding: Holding) -> tuple[Holding, Forecast, Array]:
            predicted = forecast(situation, order=order, widths=widths, caps=caps, costs=costs, holding=holding)
            return holding, predicted, predicted.odds(situation.deviation, hopeless=self.thresholds.hopeless)

        best = expect(NONE_HELD)
        unbounded = [job for job in situation.running if not job.bounded]
        wide = [job for job in unbounded if own_option(job, menu).exceeds(menu.narrowest)]
        ids = frozenset(job.id for job in wide if job.decodes)
        if not ids or len(ids) == len(situation.running):
            return best
        wait = _wait(self.last)
        for every in self.thresholds.hold_every:
            saved = float(best[2].sum(axis=1).max())
            if saved > sum(job.bounded for job in jobs) - self.thresholds.hold_worth:
                break
            tried = expect(Holding(ids=ids, every=every, wait=min(wait, every - 1)))
            if tried[2].sum(axis=1).max() >= saved + self.thresholds.hold_worth:
                best = tried
        return best

    def _widened(
        self, cap: Option, running: Sequence[Job], situation: Situation, menu: Menu, costs: StepCosts
    ) -> Option:
        """The widest option for elastic rows that decode, at which the step takes hardly longer than at the cap."""
        fixed_jobs = [job for job in running if not job.elastic]
        if not any(own_option(job, menu).exceeds(cap) for job in fixed_jobs):
            return cap
        fixed = [_group(job, menu, situation.capacity.chunk_tokens) for job in fixed_jobs]
        rows = sum(job.elastic and job.decodes for job in running)
        if rows == 0:
            return cap
        limit = costs.step_ms([*fixed, cap.group(rows, 0, rows)]) * (1 + self.thresholds.free)
        for option in menu.elastic:
            if costs.step_ms([*fixed, option.group(rows, 0, rows)]) <= limit:
                return option
        return cap


def _fixed(situation: Situation) -> frozenset[int]:
    return frozenset([job.id for job in situation.jobs if not job.elastic])


def _holds(decision: _Decision, situation: Situation) -> bool:
    """Whether it is about what would be decided now: no request has come, and none left that keeps steps wide."""
    if not decision.at_ms <= situation.now_ms < decision.until_ms:
        return False
    there = [job.id for job in situation.jobs]
    return decision.jobs.issuperset(there) and (not decision.fixed or decision.fixed.issubset(there))


def _next(holding: Holding) -> Holding:
    """One step later."""
    return replace(holding, wait=(holding.wait - 1) % holding.every) if holding.ids else NONE_HELD


def _wait(last: _Decision | None) -> int:
    """Until held rows run again, if there are any."""
    return 0 if last is None else _next(last.holding).wait


def _group(job: Job, menu: Menu, chunk_tokens: int) -> Group:
    """What a job that is not elastic adds to the next step, but for the tokens that it looks at."""
    rows = min(job.pending, chunk_tokens)
    return own_option(job, menu).group(rows, 0, int(rows == job.pending))


def _plan(decision: _Decision, situation: Situation, menu: Menu, until_ms: float = -inf) -> Plan:
    held = decision.holding.ids if decision.holding.wait else NONE_HELD.ids
    if held and held.issuperset([job.id for job in situation.running]):
        held = NONE_HELD.ids  # those that they made way for have ended
    order = tuple([job.id for job in situation.waiting])
    if len(order) > 1 and order != decision.order:
        there, known = frozenset(order), frozenset(decision.order)
        order = (*[id for id in decision.order if id in there], *[id for id in order if id not in known])
    decoding = decision.alone if held else decision.together
    if compiled.decision is None:
        options = _options(decision, decoding, situation, menu)
    else:
        running, waiting, cap, late = situation.running, situation.waiting, decision.cap, decision.late
        options = compiled.decision.assign(running, waiting, menu, cap, decoding, late)
    return Plan(options=options, order=order, held=held, until_ms=until_ms)


def _options(decision: _Decision, decoding: Option, situation: Situation, menu: Menu) -> dict[int, Option]:
    options = {}
    for job in situation.jobs:
        if not job.elastic:
            options[job.id] = own_option(job, menu)
        elif job.id in decision.late and not (job.decodes and decoding is not decision.cap):
            options[job.id] = menu.narrowest
        else:
            options[job.id] = decoding if job.decodes else decision.cap
    return options
