"""The best quality that keeps the budget, over all replicas; among equals the cheapest, then what is warm, then idle.

A search from the best on, by what is known of each replica: at first that none is better than its menu, then what the
request would take there about (see Outlook), at last what its own policy foresees. Only what leads is looked into
further, and what leads when it has been asked is chosen. What is certain:

- What a route says is what the replica's own policy foresees.
- It keeps the budget wherever any of up to MOST_ASKED replicas says so; of more, those are asked that are likeliest to.
- Its quality is the best that any policy has for the budget, unless what runs on a replica leaves it more room than it
  seems to (rows may sit out steps, others may make way), or ASKED replicas have disappointed.
- Without a budget it ends within a tenth of the soonest among those that lose no admitted budget by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heapreplace
from math import inf

from lts_ray.runtime.step_costs import StepCosts
from serve.policies import compiled
from serve.policies.admission import Choice, judge, on_admission, smallest_feasible_budget_ms
from serve.policies.budget import Budget, Timing
from serve.policies.deadline import DeadlinePolicy, Thresholds
from serve.policies.deviation import Deviation
from serve.policies.forecast import Forecast
from serve.policies.menu import Menu
from serve.policies.policy import Job, Policy, Situation
from serve.policies.request import Request
from serve.routing.outlook import Least, Outlook, Prices
from serve.routing.replica_view import ReplicaView
from serve.routing.router import Route

ASKED = 3
"""So many replicas are asked at most once one of them keeps the budget. Nearly always the first one holds."""
MOST_ASKED = 8
"""And so many while none does, of a request that has a budget."""
KEPT, IF_HELD, MISSED = 0, 1, 2
"""What the first part of a rank says: lower is better."""
FORESEEN, BOUNDED, UNKNOWN = 0, 1, 2
"""How a replica's rank is known."""
NEW = -1
"""The id of the request as a job: no replica's."""
EVEN = 0.5
"""The odds from which on a budget counts as one that is kept."""
THRESHOLDS = Thresholds()
SOON = 1.1
"""A request without a budget may take so much longer than where it would end soonest."""
ROUNDING = 1 + 1e-9
"""So little beyond a bound is none."""
LEAST_MS = 1e-3
"""What counts as the bound where none is left: delivery alone may take it all."""
Rank = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BudgetRouter:
    policy: Policy = field(default_factory=DeadlinePolicy)
    """As the replicas have it."""
    name: str = "budget"

    def route(
        self, request: Request, replicas: Sequence[ReplicaView], *, shared: Mapping[str, int], now_ms: float
    ) -> Route:
        ties = [(view.cost, -shared.get(view.id, 0), view.load) for view in replicas]
        heap: list[tuple[Rank, int, int]] = [
            ((KEPT, _shortfall(request, view), *ties[place]), UNKNOWN, place) for place, view in enumerate(replicas)
        ]
        heapify(heap)
        asked: dict[int, Route] = {}
        kept = False
        while True:
            _, known, place = heap[0]
            if known == FORESEEN or len(asked) >= (ASKED if kept or not request.budget else MOST_ASKED):
                break
            view = replicas[place]
            if known == UNKNOWN:
                heapreplace(heap, ((*_best(request, view, -ties[place][1], now_ms), *ties[place]), BOUNDED, place))
                continue
            first, asked[place] = self._asked(view, request, -ties[place][1], now_ms)
            kept = kept or first[0] == KEPT
            heapreplace(heap, ((*first, *ties[place]), FORESEEN, place))
        place = min([entry for entry in heap if entry[1] == FORESEEN])[2]
        others = tuple([route for other, route in asked.items() if other != place])
        return replace(asked[place], others=others) if others else asked[place]

    def _asked(self, view: ReplicaView, request: Request, shared: int, now_ms: float) -> tuple[Rank, Route]:
        seen = view.situation
        situation = Situation(
            now_ms=now_ms,
            running=seen.running,
            waiting=seen.waiting,
            capacity=seen.capacity,
            deviation=seen.deviation,
        )
        cached = 0 if request.elastic else shared
        job = Job(id=NEW, request=request, arrived_ms=now_ms, cached=cached)
        choice = judge(situation, job, view.menu, view.costs, self.policy)
        option, predicted = choice.option, choice.predicted
        route = Route(replica=view.id, submodel=option.name, predicted=predicted, loss=option.loss, met=choice.met)
        if not request.budget:
            first: Rank = (MISSED if self._takes(situation, choice, view) else KEPT, predicted.e2e_ms)
        elif choice.met:
            first = (KEPT, option.shortfall)
        else:
            first = (MISSED, _excess(request.budget, predicted))
        return first, route

    def _takes(self, situation: Situation, choice: Choice, view: ReplicaView) -> bool:
        """Whether a budget that would be kept otherwise is lost for the new request."""
        after = _kept(choice.forecast, situation)
        if len(after) == sum(job.bounded for job in situation.jobs):
            return False
        before = on_admission(situation, {}, view.menu, view.costs, self.policy)
        return not _kept(before, situation) <= after


def _shortfall(request: Request, view: ReplicaView) -> float:
    """The best that there is; without a budget, all run the same."""
    if not request.budget:
        return 0.0
    return view.menu.elastic[0].shortfall if request.pinned is None else request.pinned.shortfall


def _best(request: Request, view: ReplicaView, shared: int, now_ms: float) -> Rank:
    menu, costs = view.menu, view.costs
    if not costs.beside:
        return _best_of(request, view.situation, menu, costs, shared, now_ms)
    if request.elastic:
        each = [
            _best_of(request, view.situation, some, costs.of_planes(planes), shared, now_ms, planes=planes)
            for planes, some in menu.by_planes.items()
        ]
        return min(each)
    planes = (request.pinned or menu.universal).planes
    apart = any(option.planes & planes != planes for option in menu.elastic)
    costs = costs.of_planes(planes)
    return _best_of(request, view.situation, menu.by_width, costs, shared, now_ms, planes=planes, apart=apart)


def _best_of(
    request: Request,
    situation: Situation,
    menu: Menu,
    costs: StepCosts,
    shared: int,
    now_ms: float,
    *,
    planes: int = 0,
    apart: bool = False,
) -> Rank:
    """Among elastic options that all read the same; planes, apart: see Outlook.of."""
    if compiled.decision is None:
        outlook = Outlook.of(situation, menu, costs, planes=planes, apart=apart)
        return _best_slowly(request, situation, menu, outlook, shared, now_ms)
    prices, capacity = Prices.at(costs, situation.capacity).packed, situation.capacity
    given = request, situation.running, situation.waiting, now_ms, capacity, menu, costs, situation.deviation
    state, value = compiled.decision.rank(*given, THRESHOLDS, prices, shared, planes, apart)
    if state != KEPT or not request.bounded:
        return state, value
    options = menu.elastic if request.pinned is None else (request.pinned,)
    return KEPT, next((one.shortfall for one in options if one.neurons <= value), options[-1].shortfall)


def _best_slowly(
    request: Request, situation: Situation, menu: Menu, outlook: Outlook, shared: int, now_ms: float
) -> Rank:
    """The same in Python, where nothing was compiled."""
    option = None if request.elastic else request.pinned or menu.universal
    deviation = situation.deviation
    least = outlook.least(request, shared=0 if option is None else shared, option=option)
    if not request.budget:
        lost = bool(outlook.dues) and _admitted(least, outlook, deviation, now_ms) < 0
        return IF_HELD if lost else KEPT, least.e2e[0] * SOON
    widest = _widest(request, least, outlook, deviation)
    if widest is not None:
        if option is None and outlook.dues:
            widest = min(widest, _admitted(least, outlook, deviation, now_ms))
        options = menu.elastic if option is None else (option,)
        return KEPT, next((one.shortfall for one in options if one.neurons <= widest), options[-1].shortfall)
    apart = outlook.least(request, option=option, alone=True)
    if outlook.may_hold and _widest(request, apart, outlook, deviation) is not None:
        return IF_HELD, 0.0
    return MISSED, _excess(request.budget, least.at(outlook.narrowest))


def _widest(request: Request, least: Least, outlook: Outlook, deviation: Deviation) -> float | None:
    """The most neurons with which the budget may be kept; None where it is not even with the fewest."""
    steps, most = request.max_tokens - 1, inf
    # A policy takes a width under which it expects to keep so much less of the budgets than under the narrowest.
    given = min(THRESHOLDS.worth * (outlook.bounded + 1), THRESHOLDS.worth_most)
    for kind, limit in request.budget.items().items():
        if kind == "tpot" and not steps:
            continue
        start, slope = getattr(least, kind)
        likely, safe = deviation.least(kind, limit * steps if kind == "tpot" else limit)
        if (start + slope * outlook.narrowest) * safe > limit * ROUNDING:
            return None
        needed = safe - given * (safe - THRESHOLDS.hopeless * likely)
        if slope > 0:
            most = min(most, (limit * ROUNDING / needed - start) / slope)
    return most


def _admitted(least: Least, outlook: Outlook, deviation: Deviation, now_ms: float) -> float:
    """The most neurons with which those that run keep their budgets, too, as far as they can be kept at all; below 0
    where the new one's are too many, and are given."""
    most = inf
    waits = len(outlook.rows) >= outlook.capacity.slots
    read, read_slope = (0.0, 0.0) if waits else least.ttft
    token, token_slope = least.tpot
    for due_ms, steps in outlook.dues:
        start, slope, left_ms = read + steps * token, read_slope + steps * token_slope, due_ms - now_ms
        likely, safe = deviation.least("e2e", left_ms)
        if slope == 0:
            most = most if start * safe <= left_ms else -1
        elif left_ms > (start + slope * outlook.narrowest) * THRESHOLDS.hopeless * likely:
            most = min(most, (left_ms / safe - start) / slope)
    return most


def _excess(budget: Budget, timing: Timing) -> float:
    """By how much the bound that is missed most is missed: of one with no time left, too."""
    limits = budget.items().items()
    shares: list[float] = [getattr(timing, f"{kind}_ms") / max(limit, LEAST_MS) for kind, limit in limits]
    return max(shares)


def _kept(forecast: Forecast, situation: Situation) -> set[int]:
    """The jobs whose budgets are more likely kept than not, once all are at the narrowest that may be."""
    odds = forecast.odds(situation.deviation, hopeless=THRESHOLDS.hopeless)[-1]
    return {job.id for job, chance in zip(forecast.jobs, odds.tolist(), strict=True) if job.bounded and chance >= EVEN}


def smallest_feasible(request: Request, replicas: Sequence[ReplicaView], *, now_ms: float) -> dict[str, float]:
    """For each kind of bound that the request has, in milliseconds: one replica would keep all of these together."""
    job = Job(id=NEW, request=request, arrived_ms=now_ms)
    found = [
        smallest_feasible_budget_ms(
            replace(view.situation, now_ms=now_ms), job, view.menu, view.costs, DeadlinePolicy()
        )
        for view in sorted(replicas, key=lambda view: _best(request, view, 0, now_ms))[:ASKED]
    ]
    asked = request.budget.items()
    return min(found, key=lambda feasible: max(feasible[kind] / max(limit, LEAST_MS) for kind, limit in asked.items()))
