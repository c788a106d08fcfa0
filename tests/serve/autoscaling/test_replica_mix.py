"""The cheapest mix of kinds, against trying them all."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.autoscaling.replica_mix import MixedKind, cheapest_mix

SMALL = st.builds(
    lambda bears, cost, least, more: MixedKind(bears=bears, cost=cost, least=least, most=least + more),
    bears=st.floats(0.1, 5),
    cost=st.floats(0.5, 5),
    least=st.integers(0, 3),
    more=st.integers(0, 5),
)


@given(st.lists(SMALL, min_size=1, max_size=3), st.floats(0, 40), st.one_of(st.none(), st.floats(0, 40)))
def test_no_mix_is_better(kinds: list[MixedKind], rate: float, budget: float | None) -> None:
    def worth(mix: tuple[int, ...]) -> tuple[float, float]:
        bears = sum(kind.bears * count for kind, count in zip(kinds, mix, strict=True))
        cost = sum(kind.cost * count for kind, count in zip(kinds, mix, strict=True))
        return max(0.0, rate - bears), cost

    least = sum(kind.cost * kind.least for kind in kinds)
    allowed = float("inf") if budget is None else max(budget, least) + 1e-9
    found = cheapest_mix(kinds, rate, budget=budget)
    assert all(kind.least <= count <= kind.most for kind, count in zip(kinds, found, strict=True))
    assert worth(found)[1] <= allowed
    mixes = [mix for mix in product(*(range(kind.least, kind.most + 1) for kind in kinds)) if worth(mix)[1] <= allowed]
    best = min(map(worth, mixes))
    assert worth(found) == pytest.approx(best, abs=1e-6)


def test_with_many_replicas_it_is_near_the_best_and_within_the_budget() -> None:
    large = MixedKind(bears=2.0, cost=2.1, least=0, most=500)
    small = MixedKind(bears=1.0, cost=1.0, least=0, most=60)
    odd = MixedKind(bears=0.7, cost=0.9, least=3, most=500)
    mix = cheapest_mix([large, small, odd], 200.0)
    assert mix[1:] == (60, 3)
    assert 2.0 * mix[0] >= 200 - 60 - 3 * 0.7
    assert cheapest_mix([large, small, odd], 200.0, budget=20.0)[1] == 17
