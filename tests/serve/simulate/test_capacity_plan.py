from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lts_ray.pareto import non_dominated
from serve.policies.budget import NO_BUDGET
from serve.simulate.capacity_plan import DIGITS, NEAR, CapacityPlan, Result, busiest_part, plan_capacity
from serve.simulate.simulated_kind import SimulatedKind
from serve.traffic.arrival import Arrival
from tests.serve.simulate.test_simulate import NODE

Bounds = tuple[float, int, int]
"""Of a kind: what a replica costs an hour, and the fewest and the most of them."""


def kinds_of(*bounds: Bounds) -> list[SimulatedKind]:
    return [
        SimulatedKind(
            name=f"kind-{number}", cost_per_hour=cost, node=NODE, replicas=least, min_replicas=least, max_replicas=most
        )
        for number, (cost, least, most) in enumerate(bounds)
    ]


class Load:
    """Kind n bears n + 1 and a half of it; keeps what was tried."""

    def __init__(self, need: float = 10.0) -> None:
        self.need = need
        self.tried: list[tuple[int, ...]] = []

    def whole(self, replicas: Mapping[str, int]) -> Result:
        self.tried.append(tuple(replicas.values()))
        return self.known(tuple(replicas.values()))

    def known(self, counts: tuple[int, ...]) -> Result:
        borne = sum(count * (kind + 1.5) for kind, count in enumerate(counts))
        return min(1.0, borne / self.need), 3.0 + max(0.0, 1 - borne / self.need / 1.5)

    def busiest(self, replicas: Mapping[str, int]) -> Result:
        """Half of what is missed is missed there."""
        attainment, loss = self.known(tuple(replicas.values()))
        return 0.5 + attainment / 2, loss


def planned(
    kinds: list[SimulatedKind], load: Load, *, wanted: float = 0.99, seed: int = 0, most: int = 200
) -> CapacityPlan:
    return plan_capacity(kinds, load.whole, wanted=wanted, best_loss=3.0, seed=seed, most=most)


bounds = st.tuples(st.sampled_from([0.5, 1.0, 1.7, 2.5, 4.0]), st.integers(0, 2), st.integers(0, 3)).map(
    lambda drawn: (drawn[0], drawn[1], drawn[1] + drawn[2])
)


@settings(max_examples=40)
@given(st.lists(bounds, min_size=1, max_size=3), st.sampled_from([0.7, 0.99, 1.0]), st.sampled_from([4.0, 10.0, 30.0]))
def test_the_search_finds_what_trying_all_finds(all_bounds: list[Bounds], wanted: float, need: float) -> None:
    load = Load(need)
    ranges = [range(least, most + 1) for _, least, most in all_bounds]
    fleets = {
        counts: (sum(count * cost for count, (cost, _, _) in zip(counts, all_bounds, strict=True)), *load.known(counts))
        for counts in product(*ranges)
        if any(counts)
    }
    if not fleets:
        return
    plan = planned(kinds_of(*all_bounds), load, wanted=wanted)
    assert plan.fleets == len(fleets)
    vectors = [(cost, -round(kept, DIGITS), round(loss, DIGITS)) for cost, kept, loss in fleets.values()]
    front = {counts for place, counts in enumerate(fleets) if place in non_dominated(vectors)}
    assert {tuple(fleet.replicas.values()) for fleet in plan.front} == front
    for fleet in plan.tried:
        assert (fleet.cost_per_hour, fleet.attainment, fleet.loss) == fleets[tuple(fleet.replicas.values())]
    kept = [cost for cost, attainment, _ in fleets.values() if attainment >= wanted]
    assert (plan.cheapest and plan.cheapest.cost_per_hour) == min(kept, default=None)


def test_what_costs_more_than_a_fleet_without_fault_is_not_tried() -> None:
    load = Load(need=2.0)
    plan = planned(kinds_of((1.0, 1, 9)), load)
    assert load.tried == [(1,), (2,)]
    assert [fleet.replicas for fleet in plan.front] == [{"kind-0": 1}, {"kind-0": 2}]


def test_what_misses_too_much_in_the_busiest_part_is_not_tried_on_the_whole() -> None:
    kinds, load, wanted = kinds_of((1.0, 0, 4), (1.5, 0, 4)), Load(), 0.98
    plan = plan_capacity(kinds, load.whole, wanted=wanted, best_loss=3.0, seed=0, busiest=load.busiest)
    all_tried = planned(kinds, Load(), wanted=wanted)
    assert plan.cheapest == all_tried.cheapest
    hopeless = {
        counts for counts in product(range(5), range(5)) if (1 - load.known(counts)[0]) / 2 > NEAR * (1 - wanted)
    }
    assert len(hopeless) > 3
    assert not hopeless & set(load.tried)
    assert {tuple(fleet.replicas.values()) for fleet in plan.seen} == hopeless - {(0, 0)}


@pytest.mark.parametrize("busiest", [True, False])
def test_where_no_fleet_keeps_what_is_wanted_the_best_one_is_shown(busiest: bool) -> None:
    load = Load(need=100.0)
    plan = plan_capacity(
        kinds_of((1.0, 1, 4), (2.0, 0, 1)),
        load.whole,
        wanted=0.99,
        best_loss=3.0,
        seed=0,
        busiest=load.busiest if busiest else None,
    )
    assert plan.cheapest is None
    best = plan.front[-1]
    assert best.replicas == {"kind-0": 4, "kind-1": 1}
    assert best.attainment == load.known((4, 1))[0]


def test_among_many_fleets_optuna_proposes_and_the_seed_says_which() -> None:
    kinds, load, again = kinds_of((1.0, 0, 30), (1.4, 2, 20), (2.9, 0, 20)), Load(need=60.0), Load(need=60.0)
    told: list[tuple[int, int]] = []
    plan = plan_capacity(
        kinds, load.whole, wanted=0.99, best_loss=3.0, seed=1, most=100, progress=lambda *each: told.append(each)
    )
    assert plan == planned(kinds, again, seed=1, most=100)
    assert load.tried == again.tried
    assert len(set(load.tried)) == len(load.tried) <= 100
    assert load.tried[0] == (30, 20, 20)
    assert all(2 <= medium <= 20 and small <= 30 and large <= 20 for small, medium, large in load.tried)
    assert told == sorted(told)
    assert told[-1][1] == 100
    assert plan.cheapest is not None
    costs = [  # of all that keep what is wanted, by trying all
        small + 1.4 * medium + 2.9 * large
        for small, medium, large in product(range(31), range(2, 21), range(21))
        if load.known((small, medium, large))[0] >= 0.99
    ]
    assert plan.cheapest.cost_per_hour <= 1.03 * min(costs)
    other = Load(need=60.0)
    planned(kinds, other, seed=2, most=30)
    assert other.tried[:10] != load.tried[:10]


def test_the_busiest_part_is_where_the_most_tokens_are_asked_for() -> None:
    def come(at_ms: float, tokens: int) -> Arrival:
        return Arrival(at_ms=at_ms, prompt_tokens=tokens, output_tokens=1, budget=NO_BUDGET, klass="none")

    crowd = [come(10.0 * n, 10) for n in range(10)]
    long = [come(500.0, 400), come(600.0, 1)]
    later = [come(601.0, 5), come(1000.0, 300)]
    assert busiest_part([*crowd, *long, *later]) == long
    assert busiest_part([]) == ()
