"""The autoscaler by predicted attainment: bounds, budget, need, constancy, and what it learns of misses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.autoscaling.attainment_autoscaler import AttainmentAutoscaler, AttainmentSettings
from serve.autoscaling.autoscaler import Scaling
from serve.autoscaling.fleet_state import FleetState, KindState
from tests.serve.autoscaling.fleets import fleet, kind


def scaler(**given: Any) -> AttainmentAutoscaler:
    return AttainmentAutoscaler(AttainmentSettings(**given))


def followed(
    autoscaler: AttainmentAutoscaler, kinds: list[KindState], rates: list[float], **load: Any
) -> list[Scaling]:
    """Every 10 s a decision, which the fleet follows at once; the rate is spread evenly."""
    found, counts = [], {each.name: each.target for each in kinds}
    for tick, rate in enumerate(rates):
        total = max(1, sum(counts.values()))
        state = []
        for each in kinds:
            up = counts[each.name]
            bears = next(iter(each.replicas.values())).sustained
            came = {"window_s": 60.0, "came": 60 * rate / total, "sustained": bears, **load}
            bounds = {"min_replicas": each.min_replicas, "max_replicas": each.max_replicas}
            state.append(kind(each.name, up=up, cost_per_hour=each.cost_per_hour, **bounds, **came))
        found.append(autoscaler.decide(fleet(10.0 * tick, *state)))
        counts = dict(found[-1].targets)
    return found


RATES = st.lists(st.floats(0, 30), min_size=1, max_size=40)


@settings(max_examples=50)
@given(RATES, st.integers(0, 3), st.integers(4, 20), st.one_of(st.none(), st.floats(5, 40)), st.floats(0, 1))
def test_counts_stay_within_bounds_and_budget(
    rates: list[float], least: int, most: int, budget: float | None, missed: float
) -> None:
    kinds = [
        kind("large", min_replicas=least, max_replicas=most, cost_per_hour=2.0, sustained=2.0),
        kind("small", min_replicas=0, max_replicas=most, cost_per_hour=0.8, sustained=0.7),
    ]
    for scaling in followed(scaler(max_cost_per_hour=budget), kinds, rates, bounded=100.0, kept=100 * (1 - missed)):
        large, small = scaling.targets["large"], scaling.targets["small"]
        assert least <= large <= most
        assert 0 <= small <= most
        assert budget is None or 2 * large + 0.8 * small <= max(budget, 2.0 * least) + 1e-6
        assert "\n" not in scaling.reason


@settings(max_examples=50)
@given(RATES)
def test_the_same_states_have_the_same_answers(rates: list[float]) -> None:
    kinds = [kind("large", cost_per_hour=2.0, sustained=2.0), kind("small", sustained=0.7)]
    assert followed(scaler(), kinds, rates) == followed(scaler(), kinds, rates)


@settings(max_examples=50)
@given(RATES)
def test_nothing_is_taken_away_that_the_rate_of_now_needs(rates: list[float]) -> None:
    kinds, before = [kind("large", up=20, sustained=1.0)], 20
    for scaling, rate in zip(followed(scaler(), kinds, rates), rates, strict=True):
        if scaling.targets["large"] < before:
            assert scaling.targets["large"] >= min(rates[: rates.index(rate) + 1]) * 0.6 - 1
            assert before - scaling.targets["large"] <= max(1, round(before * 0.1 + 0.5))
        before = scaling.targets["large"]


def test_a_constant_rate_has_one_number_of_replicas() -> None:
    found = [
        scaling.targets["large"] for scaling in followed(scaler(beginning=0.0), [kind(sustained=1.0)], [7.3] * 200)
    ]
    assert 8 <= min(found[10:]) <= max(found[10:]) <= 10
    assert sum(before != after for before, after in pairwise(found[10:])) <= 3  # a reserve is learned, then it stays


def test_a_rate_that_grows_is_met_before_it_is_there_and_one_that_falls_is_held_for_a_while() -> None:
    growing = followed(scaler(), [kind(up=6, sustained=1.0)], [5 + 0.1 * tick for tick in range(60)])
    assert growing[59].targets["large"] > 5 + 0.1 * 59 + 1
    falling = followed(scaler(hold_s=100), [kind(up=12, sustained=1.0)], [10.0] * 30 + [4.0] * 60)
    down = [scaling.targets["large"] for scaling in falling]
    assert min(down[30:38]) >= 10
    assert down[-1] <= 6
    assert "→" in falling[next(place for place in range(30, 90) if down[place] < down[place - 1])].reason


def test_what_is_cheapest_for_what_it_bears_comes_first_and_goes_last() -> None:
    dear, cheap = kind("dear", sustained=1.0, cost_per_hour=2.0), kind("cheap", sustained=1.0, max_replicas=8)
    found = followed(scaler(beginning=0.0), [dear, cheap], [6.0] * 60 + [14.0] * 40 + [6.0] * 450)
    assert found[59].targets["dear"] <= 1
    assert found[99].targets["cheap"] == 8
    assert found[99].targets["dear"] >= 6
    assert found[-1].targets["dear"] == 0
    assert found[-1].targets["cheap"] >= 5


def test_missed_budgets_and_lost_quality_ask_for_more_and_none_for_less_over_time() -> None:
    calm = followed(scaler(), [kind(sustained=1.0)], [8.0] * 360, bounded=100.0, kept=100.0)
    missing = followed(scaler(), [kind(sustained=1.0)], [8.0] * 360, bounded=100.0, kept=95.0)
    narrow = followed(scaler(), [kind(sustained=1.0)], [8.0] * 360, tokens=1.0, loss=3.1, worst_loss=3.0)
    assert calm[-1].targets["large"] < 8 < missing[-1].targets["large"]
    assert narrow[-1].targets["large"] > 8


def test_nothing_goes_while_more_is_missed_than_may_be() -> None:
    load = {"sustained": 1.0, "bounded": 100.0, "kept": 80.0}
    found = followed(scaler(learning=0.0, urgency=0.0), [kind(up=20, sustained=1.0)], [2.0] * 60, **load)
    assert found[-1].targets["large"] == 20


def test_without_a_replica_that_knows_what_it_bears_all_stays_within_bounds() -> None:
    state = fleet(0.0, kind(up=3), kind("small", up=0, min_replicas=1))
    assert scaler().decide(state).targets == {"large": 3, "small": 1}


def test_a_kind_that_was_never_there_counts_as_the_others_do_for_their_cost() -> None:
    autoscaler, states = scaler(), []
    for tick in range(30):
        large = kind("large", up=2, max_replicas=2, came=60.0 * 4, sustained=2.0, cost_per_hour=2.0)
        states.append(fleet(10.0 * tick, large, kind("small", up=0)))
    scaling = [autoscaler.decide(state) for state in states][-1]
    assert scaling.targets["small"] >= 4


def test_what_replicas_bore_is_remembered_when_they_are_gone() -> None:
    autoscaler = scaler()
    autoscaler.decide(fleet(0.0, kind(up=2, came=120.0, sustained=2.0)))
    gone: FleetState = fleet(10.0, replace(kind(up=0), target=2))
    assert "to bear" in autoscaler.decide(gone).reason


def test_others_that_cost_less_take_the_place_of_dearer_ones_without_a_gap() -> None:
    dear, cheap = kind("dear", up=9, sustained=1.0, cost_per_hour=2.0), kind("cheap", up=0, sustained=1.0)
    cheap = replace(cheap, replicas=kind("cheap", sustained=1.0).replicas)
    found = followed(scaler(), [dear, cheap], [6.0] * 60)
    assert all(sum(scaling.targets.values()) >= 6 for scaling in found)
    assert found[-1].targets["dear"] == 0


def test_what_came_to_replicas_that_left_counts_until_it_is_old() -> None:
    autoscaler, six = scaler(), kind(up=6, came=60.0, sustained=1.0)
    autoscaler.decide(fleet(0.0, six))
    fewer = replace(six, target=4, replicas=dict(list(six.replicas.items())[:4]))
    assert autoscaler.decide(fleet(10.0, fewer)).reason.split(": ")[1].startswith("5.67 requests/s")
    assert autoscaler.decide(fleet(70.0, fewer)).reason.split(": ")[1].startswith("4 requests/s")


def test_a_kind_that_bears_more_for_its_cost_takes_over_by_and_by() -> None:
    dear, cheap = kind("dear", up=10, sustained=1.0, cost_per_hour=1.3), kind("cheap", up=1, sustained=1.0)
    found = [scaling.targets for scaling in followed(scaler(), [dear, cheap], [6.0] * 200)]
    assert found[10]["dear"] > 3
    assert found[-1]["dear"] <= 2
    assert found[-1]["cheap"] >= 6


def test_what_a_burst_costs_of_quality_quiet_times_give_back() -> None:
    autoscaler = scaler()
    quiet, burst = {"tokens": 100.0, "loss": 298.0}, {"tokens": 100.0, "loss": 304.0}
    before = autoscaler.correction
    for tick in range(60):
        load = burst if tick % 10 == 9 else quiet
        autoscaler.decide(fleet(10.0 * tick, kind(sustained=1.0, bounded=100.0, kept=99.0, worst_loss=3.0, **load)))
    assert autoscaler.correction <= before + 0.01
