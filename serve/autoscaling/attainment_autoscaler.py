"""As few replicas as keep the wanted share of budgets at the wanted quality, of the kinds that do it at least cost.

Replicas narrow by themselves as load grows; each says how many requests a second it bears so, at no less than the
wanted quality (serve/autoscaling/sustained_rate.py). What is to be borne is the rate that is forecast for when a
replica that is asked for now would serve, with a reserve for how far such forecasts were off, times a correction. That
is learned from what became of requests: it grows while more budgets are missed or more quality is given than wanted,
and shrinks slowly while there is less of both, so that over time as much is missed as may be.

Replicas are added at once, the cheapest for what they bear. They go, the dearest for that first and a few at a time,
once less was needed for `hold_s` and while no more is missed than may be. No more are asked for than the budget per
hour allows.
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
from serve.autoscaling.fleet_state import FleetState, KindState
from serve.autoscaling.rate_forecast import RateForecast
from serve.autoscaling.replica_mix import MixedKind, cheapest_mix

LEAST, MOST = -0.4, 0.7
"""Of the correction's logarithm."""
AT_ONCE = 0.1
"""Of the replicas, so large a share goes by one decision."""
SWAP = 0.1
"""Other kinds take the place of what is there where they cost so much less, as a share."""
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
    reserve: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """What is to be borne is not less than in this share of the forecasts that have come true."""
    learning: Annotated[float, Field(ge=0, le=1)] = 0.006
    """How much the correction changes in a second if everything is missed."""
    urgency: Annotated[float, Field(ge=0)] = 0.5
    """How much more is to be borne at once, if everything is missed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Observed:
    rate: float
    missed: float | None
    """Share of budgets; None: none ended."""
    worse: float | None
    """By what share the mean loss is above the wanted one; None: none is wanted, or nothing was made."""

    @classmethod
    def of(cls, state: FleetState) -> _Observed:
        loads = [load for kind in state.kinds for load in kind.replicas.values() if load.window_s > 0]
        bounded, tokens = sum(load.bounded for load in loads), sum(load.tokens for load in loads)
        worst = max((load.worst_loss for load in loads), default=0.0)
        return cls(
            rate=sum(load.came / load.window_s for load in loads),
            missed=1 - sum(load.kept for load in loads) / bounded if bounded else None,
            worse=sum(load.loss for load in loads) / tokens / worst - 1 if tokens and worst else None,
        )


class AttainmentAutoscaler:
    """What it remembers: the forecast, the correction, what was needed of late and what replicas of each kind bore."""

    name = "attainment"

    def __init__(self, settings: AttainmentSettings) -> None:
        self.settings = settings
        self.correction = 0.0
        """The logarithm of what the need is times."""
        self._forecast = RateForecast(level_s=settings.level_s, trend_s=settings.trend_s)
        self._needs: deque[tuple[float, float]] = deque()
        self._bears: dict[str, float] = {}
        self._last_s: float | None = None

    def decide(self, state: FleetState) -> Scaling:
        known, seen = self._known(state.kinds), _Observed.of(state)
        targets = {kind.name: kind.target for kind in state.kinds}
        if not known:
            return Scaling(targets=_bounded(state.kinds, targets), reason="no replica knows yet what it bears")
        ahead_s = max(kind.start_s for kind in state.kinds)
        excess = self._learn(state.now_s, seen)
        self._forecast.note(state.now_s, seen.rate, ahead_s=ahead_s)
        forecast = self._forecast.at(ahead_s)
        reserve = self._forecast.reserve(self.settings.reserve, guess=1.1)
        need = max(forecast * reserve, 0.0) * exp(self.correction + self.settings.urgency * max(excess, 0.0))
        held = self._hold(state.now_s, need)
        within = self._within(state.kinds, known, need, held, bad=excess > 0)
        changed = [f"{name} {targets[name]} → {count}" for name, count in within.items() if count != targets[name]]
        reason = (
            f"{seen.rate:.3g} requests/s, {forecast:.3g} forecast in {ahead_s:.0f} s, × {reserve:.2f} for what that is "
            f"off, × {need / max(forecast * reserve, 1e-9):.2f} for what was missed: {need:.3g} to bear"
            + ("" if seen.missed is None else f"; {100 * seen.missed:.1f} % missed")
            + ("" if seen.worse is None else f", loss {100 * seen.worse:+.2f} % of what may be")
        )
        return Scaling(targets=within, reason=f"{', '.join(changed) or 'as it is'}: {reason}")

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

    def _learn(self, now_s: float, seen: _Observed) -> float:
        """Returns by how much more was missed than may be."""
        passed_s, self._last_s = 0.0 if self._last_s is None else now_s - self._last_s, now_s
        if seen.missed is None and seen.worse is None:
            return 0.0
        excess = (seen.missed or 0.0) - (1 - self.settings.attainment)
        if seen.worse is not None:
            excess = max(excess, min(QUALITY * seen.worse, 0.1))
        self.correction += self.settings.learning * passed_s * excess
        self.correction = min(max(self.correction, LEAST), MOST)
        return excess

    def _hold(self, now_s: float, need: float) -> float:
        """The most that was needed for as long as replicas are held."""
        self._needs.append((now_s, need))
        while self._needs[0][0] < now_s - self.settings.hold_s:
            self._needs.popleft()
        return max(need for _, need in self._needs)

    def _within(
        self, kinds: Sequence[KindState], known: dict[str, float], need: float, held: float, *, bad: bool
    ) -> dict[str, int]:
        """Add to what there is where that bears too little; take away where it bears more than was needed of late."""
        start = _bounded(kinds, {kind.name: kind.target for kind in kinds})
        bears = sum(start[kind.name] * known[kind.name] for kind in kinds)
        cost = _cost(kinds, start)
        budget = self.settings.max_cost_per_hour
        over = budget is not None and cost > budget

        def mix(rate: float, least: Mapping[str, int], most: Mapping[str, int]) -> dict[str, int]:
            mixed = [
                MixedKind(bears=known[kind.name], cost=kind.cost_per_hour, least=least[kind.name], most=most[kind.name])
                for kind in kinds
            ]
            counts = cheapest_mix(mixed, rate, budget=budget)
            return {kind.name: count for kind, count in zip(kinds, counts, strict=True)}

        all_least = {kind.name: kind.min_replicas for kind in kinds}
        all_most = {kind.name: kind.max_replicas for kind in kinds}
        if need > bears and not over:
            return mix(need, start, all_most)
        if over:
            return mix(held, all_least, start)
        if bad:
            return start
        best = mix(held, all_least, all_most)
        if _cost(kinds, best) < (1 - SWAP) * cost and held <= bears:
            more = {name: max(start[name], best[name]) for name in start}
            if more != start and (budget is None or _cost(kinds, more) <= budget):
                return more  # others for less: once they are there the dearer ones are too many
        best = mix(held, all_least, start)
        going = ceil(AT_ONCE * sum(start.values())) if held <= bears and any(best.values()) else 0
        for kind in sorted(kinds, key=lambda each: -each.cost_per_hour / known[each.name]):
            fewer = min(going, start[kind.name] - best[kind.name])
            start[kind.name] -= fewer
            going -= fewer
        return start


def _cost(kinds: Sequence[KindState], counts: Mapping[str, int]) -> float:
    return sum(kind.cost_per_hour * counts[kind.name] for kind in kinds)


def _bounded(kinds: Sequence[KindState], targets: dict[str, int]) -> dict[str, int]:
    return {kind.name: min(max(targets[kind.name], kind.min_replicas), kind.max_replicas) for kind in kinds}
