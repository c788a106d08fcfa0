"""As few replicas as keep the wanted share of budgets at the wanted quality, of the kinds that do it at least cost.

Replicas narrow by themselves as load grows; each says how many requests a second it bears so, at no less than the
wanted quality (serve/autoscaling/sustained_rate.py). What is to be borne is the rate that is forecast for when a
replica that is asked for now would serve, with the reserve with which no more came than was forecast but for the share
of requests that may be missed, times a correction. That is learned from what became of requests: it grows while more
budgets are missed or more quality is given than wanted, and shrinks slowly while there is less of both, so that over
time as much is missed as may be.

Each kind bears its share, which grows by and by where a kind bears more for its cost. Replicas are added at once. They
go, the dearest for what they bear first and a few at a time, once less was needed for `hold_s`, those that stay serve,
and not much more is missed than may be. No more are asked for than the budget per hour allows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp
from typing import Annotated

from pydantic import Field

from lts_ray.record import Positive, record
from serve.autoscaling.autoscaler import Scaling
from serve.autoscaling.fleet_state import FleetState, KindState, ReplicaLoad
from serve.autoscaling.rate_forecast import RateForecast
from serve.autoscaling.replica_mix import MixedKind, cheapest_mix

LEAST, MOST = -0.7, 0.7
"""Of the correction's logarithm."""
GUESS = 1.2
"""By how much more comes than is forecast, while nothing is known of it."""
WEIGHT = 3.0
"""So much more than usual counts of what is missed while more requests end than usual, at most."""
MEAN_S = 1_800.0
"""Over so long the loss is a mean: what a burst costs of it, quiet times give back."""
AT_ONCE = 0.1
"""Of the replicas, so large a share goes by one decision."""
DRIFT_S, LEAST_SHARE = 60.0, 0.01
"""In so long a kind that bears half as much for its cost as another comes to half of its share beside it."""
QUALITY = 10.0
"""A tenth of a percent of loss beyond what is wanted counts as a percent of budgets missed."""


@record(what="attainment")
class AttainmentSettings:
    max_cost_per_hour: Positive | None = None
    """Of all replicas, in the unit of the kinds' costs; None: any. What min_replicas cost is spent in any case."""
    attainment: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """The share of budgets to keep."""
    hold_s: Annotated[float, Field(ge=0)] = 120.0
    """Replicas go when for so long fewer were enough."""
    level_s: Positive = 60.0
    """The rate is a mean over so long, the newest counting most."""
    trend_s: Positive = 180.0
    """How fast it grows is a mean over so long."""
    beginning: Annotated[float, Field(ge=-1, le=1)] = 0.3
    """The correction's logarithm at first."""
    learning: Annotated[float, Field(ge=0, le=1)] = 0.02
    """How much the correction's logarithm changes in a second if everything is missed."""
    urgency: Annotated[float, Field(ge=0)] = 1.0
    """How much more is to be borne at once, if everything is missed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Observed:
    """Of the replicas' windows, all together."""

    window_s: float
    came: float
    """Requests, those of replicas that have left among them."""
    bounded: float
    missed: float
    """Requests with a budget that ended, and those that did not keep it."""
    tokens: float
    loss: float
    worst_loss: float

    @classmethod
    def of(cls, loads: Sequence[ReplicaLoad], *, left: float) -> _Observed:
        bounded = sum(load.bounded for load in loads)
        return cls(
            window_s=max((load.window_s for load in loads), default=0.0),
            came=sum(load.came for load in loads) + left,
            bounded=bounded,
            missed=bounded - sum(load.kept for load in loads),
            tokens=sum(load.tokens for load in loads),
            loss=sum(load.loss for load in loads),
            worst_loss=max((load.worst_loss for load in loads), default=0.0),
        )

    @property
    def rate(self) -> float:
        return self.came / self.window_s if self.window_s else 0.0


class AttainmentAutoscaler:
    """What it remembers: the forecast, the correction, what was needed of late and what replicas of each kind bore."""

    name = "attainment"

    def __init__(self, settings: AttainmentSettings) -> None:
        self.settings = settings
        self.correction = settings.beginning
        """The logarithm of what the need is times."""
        self._forecast = RateForecast(level_s=settings.level_s, trend_s=settings.trend_s)
        self._needs: deque[tuple[float, float]] = deque()
        self._bears: dict[str, float] = {}
        self._loads: dict[str, tuple[float, ReplicaLoad]] = {}
        self._shares: dict[str, float] = {}
        self._since_s: float | None = None
        self._last_s = 0.0
        self._usual = self._tokens = self._loss = 0.0

    def decide(self, state: FleetState) -> Scaling:
        known, seen = self._known(state.kinds), self._observed(state)
        targets = {kind.name: kind.target for kind in state.kinds}
        if not known:
            return Scaling(targets=_bounded(state.kinds, targets), reason="no replica knows yet what it bears")
        ahead_s = max(kind.start_s for kind in state.kinds)
        self._share_out(state.kinds, known, state.now_s - self._last_s if self._shares else 0.0)
        excess, worse = self._learn(state.now_s, seen)
        self._forecast.note(state.now_s, seen.rate, ahead_s=ahead_s)
        forecast, reserve = self._forecast.within(ahead_s, beyond=1 - self.settings.attainment, guess=GUESS)
        need = forecast * reserve * exp(self.correction + self.settings.urgency * max(excess, 0.0))
        held = self._hold(state.now_s, need)
        stay = excess > 1 - self.settings.attainment or not self._forecast.proven
        within = self._within(state.kinds, known, need, held, stay=stay)
        changed = [f"{name} {targets[name]} → {count}" for name, count in within.items() if count != targets[name]]
        reason = (
            f"{seen.rate:.3g} requests/s, {forecast:.3g} forecast in {ahead_s:.0f} s, × {reserve:.2f} for what that is "
            f"off, × {need / max(forecast * reserve, 1e-9):.2f} for what was missed: {need:.3g} to bear"
            + (f"; {100 * seen.missed / seen.bounded:.1f} % missed" if seen.bounded else "")
            + ("" if worse is None else f", loss {100 * worse:+.2f} % of what may be")
        )
        return Scaling(targets=within, reason=f"{', '.join(changed) or 'as it is'}: {reason}")

    def _observed(self, state: FleetState) -> _Observed:
        """What came to replicas that have left since counts until it is as old as what the others count."""
        loads = {id: load for kind in state.kinds for id, load in kind.replicas.items() if load.window_s > 0}
        left = 0.0
        for id, (seen_s, load) in list(self._loads.items()):
            ago_s = state.now_s - seen_s
            if id not in loads and ago_s >= load.window_s:
                del self._loads[id]
            elif id not in loads:
                left += load.came * (1 - ago_s / load.window_s)
        self._loads.update({id: (state.now_s, load) for id, load in loads.items()})
        return _Observed.of(list(loads.values()), left=left)

    def _known(self, kinds: Sequence[KindState]) -> dict[str, float]:
        """What a replica of each kind bears: the mean of those that say so, else as of late, else as the others do for
        their cost. Empty where nothing is known of any."""
        for kind in kinds:
            says = [load.sustained for load in kind.replicas.values() if load.sustained > 0]
            if says:
                new, old = sum(says) / len(says), self._bears.get(kind.name)
                self._bears[kind.name] = new if old is None else old + 0.2 * (new - old)
        mine = [kind for kind in kinds if kind.name in self._bears]
        if not mine:
            return {}
        per_cost = sum(self._bears[kind.name] / kind.cost_per_hour for kind in mine) / len(mine)
        return {kind.name: self._bears.get(kind.name, per_cost * kind.cost_per_hour) for kind in kinds}

    def _learn(self, now_s: float, seen: _Observed) -> tuple[float, float | None]:
        """Returns by how much more was missed than may be, and by what share the mean loss is above the wanted one;
        None: none is wanted, or nothing was made."""
        if self._since_s is None:
            self._since_s = self._last_s = now_s - seen.window_s
        passed_s, self._last_s = now_s - self._last_s, now_s
        share = min(passed_s / max(min(MEAN_S, now_s - self._since_s), 1e-9), 1.0)
        self._usual += share * (seen.bounded - self._usual)
        self._tokens += share * (seen.tokens - self._tokens)
        self._loss += share * (seen.loss - self._loss)
        excess, weight, worse = 0.0, 1.0, None
        if seen.bounded:
            excess = seen.missed / seen.bounded - (1 - self.settings.attainment)
            weight = min(seen.bounded / self._usual, WEIGHT) if self._usual else 1.0
        if self._tokens and seen.worst_loss:
            worse = self._loss / self._tokens / seen.worst_loss - 1
            excess = max(excess, min(QUALITY * worse, 0.1)) if seen.bounded or worse > 0 else excess
        self.correction += self.settings.learning * passed_s * weight * excess
        self.correction = min(max(self.correction, LEAST), MOST)
        return excess, worse

    def _hold(self, now_s: float, need: float) -> float:
        """The most that was needed for as long as replicas are held."""
        self._needs.append((now_s, need))
        while self._needs[0][0] < now_s - self.settings.hold_s:
            self._needs.popleft()
        return max(need for _, need in self._needs)

    def _within(
        self, kinds: Sequence[KindState], known: dict[str, float], need: float, held: float, *, stay: bool
    ) -> dict[str, int]:
        """Add to what there is where that bears too little; take away where it bears more than was needed of late."""
        start = _bounded(kinds, {kind.name: kind.target for kind in kinds})
        budget = self.settings.max_cost_per_hour
        wanted = self._shared(kinds, known, need)
        more = {name: max(start[name], wanted[name]) for name in start}
        if budget is not None and _cost(kinds, more) > budget:
            return _mix(kinds, known, need, {kind.name: kind.min_replicas for kind in kinds}, more, budget)
        if stay:
            return more
        enough = self._shared(kinds, known, held)
        going = ceil(AT_ONCE * sum(start.values()))
        spare = sum(min(len(kind.replicas), start[kind.name]) * known[kind.name] for kind in kinds) - held
        for kind in sorted(kinds, key=lambda each: -each.cost_per_hour / known[each.name]):
            fewer = min(going, more[kind.name] - max(enough[kind.name], wanted[kind.name]))
            fewer = max(0, min(fewer, int(spare / known[kind.name] + 1e-9)))
            more[kind.name] -= fewer
            going -= fewer
            spare -= fewer * known[kind.name]
        return more

    def _shared(self, kinds: Sequence[KindState], known: dict[str, float], rate: float) -> dict[str, int]:
        """Replicas that bear it, each kind its share; what is left over goes to what is cheapest."""
        least = {
            kind.name: min(
                max(int(rate * self._shares[kind.name] / known[kind.name] + 1e-9), kind.min_replicas),
                kind.max_replicas,
            )
            for kind in kinds
        }
        return _mix(kinds, known, rate, least, {kind.name: kind.max_replicas for kind in kinds}, None)

    def _share_out(self, kinds: Sequence[KindState], known: dict[str, float], passed_s: float) -> None:
        """Of what is to be borne, by kind: what bears more for its cost gets more of it, by and by. For what a kind
        bears changes with what comes to it: the easiest requests at first."""
        if not self._shares:
            self._shares = {kind.name: max(kind.target, 1) * known[kind.name] for kind in kinds}
        worth = {kind.name: known[kind.name] / kind.cost_per_hour for kind in kinds}
        best, total = max(worth.values()), sum(self._shares.values())
        for name, each in worth.items():
            self._shares[name] = max(self._shares[name] / total * (each / best) ** (passed_s / DRIFT_S), LEAST_SHARE)
        total = sum(self._shares.values())
        self._shares = {name: share / total for name, share in self._shares.items()}


def _mix(
    kinds: Sequence[KindState],
    known: Mapping[str, float],
    rate: float,
    least: Mapping[str, int],
    most: Mapping[str, int],
    budget: float | None,
) -> dict[str, int]:
    mixed = [
        MixedKind(bears=known[kind.name], cost=kind.cost_per_hour, least=least[kind.name], most=most[kind.name])
        for kind in kinds
    ]
    counts = cheapest_mix(mixed, rate, budget=budget)
    return {kind.name: count for kind, count in zip(kinds, counts, strict=True)}


def _cost(kinds: Sequence[KindState], counts: Mapping[str, int]) -> float:
    return sum(kind.cost_per_hour * counts[kind.name] for kind in kinds)


def _bounded(kinds: Sequence[KindState], targets: dict[str, int]) -> dict[str, int]:
    return {kind.name: min(max(targets[kind.name], kind.min_replicas), kind.max_replicas) for kind in kinds}
