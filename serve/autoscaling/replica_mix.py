"""The cheapest numbers of replicas by kind that bear a rate, within bounds and a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

MOST = 2_000
"""So many mixes are tried, all but for the number of the cheapest kind; a controller has milliseconds."""
ENOUGH = 1e-9
"""Of a rate, lost to rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedKind:
    bears: float
    """Requests a second, one replica."""
    cost: float
    """An hour, of one replica."""
    least: int
    """Replicas that there are to be in any case, and at most."""
    most: int


def cheapest_mix(kinds: Sequence[MixedKind], rate: float, *, budget: float | None = None) -> tuple[int, ...]:
    """Replicas of each kind that bear `rate` at the least cost; where none does, those that bear most.

    Exact for two kinds, and where there are few replicas; else kinds are taken by cost for what they bear.
    budget: of the cost per hour; None: any. The least of each kind is there even beyond it.
    """
    order = sorted(range(len(kinds)), key=lambda place: (kinds[place].cost / max(kinds[place].bears, ENOUGH), place))
    allowed = float("inf") if budget is None else budget
    greedy = _filled(kinds, order, [kind.least for kind in kinds], rate, allowed)
    ranges = [range(kinds[place].least, kinds[place].most + 1) for place in order]
    if not ranges or prod(map(len, ranges[1:])) > MOST:
        return greedy
    best = greedy
    for counts in product(*ranges[1:]):  # what is missing is the first kind's, the cheapest for what it bears
        tried = [0] * len(kinds)
        for place, count in zip(order[1:], counts, strict=True):
            tried[place] = count
        first = kinds[order[0]]
        missing = rate - _borne(kinds, tried)
        tried[order[0]] = min(max(ceil(missing / max(first.bears, ENOUGH) - ENOUGH), first.least), first.most)
        if _cost(kinds, tried) > max(allowed, _cost(kinds, [kind.least for kind in kinds])) + ENOUGH:
            continue
        best = min(best, tuple(tried), key=lambda mix: _worth(kinds, mix, rate))
    return best


def _filled(
    kinds: Sequence[MixedKind], order: Sequence[int], counts: list[int], rate: float, allowed: float
) -> tuple[int, ...]:
    for place in order:
        kind = kinds[place]
        if kind.bears <= 0:
            continue
        missing = ceil((rate - _borne(kinds, counts)) / kind.bears - ENOUGH)
        afford = int((allowed - _cost(kinds, counts)) / kind.cost + ENOUGH) if allowed < float("inf") else kind.most
        counts[place] += max(0, min(missing, kind.most - counts[place], afford))
    return tuple(counts)


def _worth(kinds: Sequence[MixedKind], mix: Sequence[int], rate: float) -> tuple[float, float, tuple[int, ...]]:
    """The less the better: what it does not bear, then what it costs."""
    return max(0.0, round(rate - _borne(kinds, mix), 9)), round(_cost(kinds, mix), 9), tuple(mix)


def _borne(kinds: Sequence[MixedKind], counts: Sequence[int]) -> float:
    return sum(kind.bears * count for kind, count in zip(kinds, counts, strict=True))


def _cost(kinds: Sequence[MixedKind], counts: Sequence[int]) -> float:
    return sum(kind.cost * count for kind, count in zip(kinds, counts, strict=True))
