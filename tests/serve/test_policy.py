"""The policy's arithmetic by hand, and its rules for every load (hypothesis). All times are plain numbers: no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.architecture import Submodel
from lts_ray.measurement.cost_model import StepCostModel
from serve.budget import Budget, Timing
from serve.menu import Option
from serve.policy import (
    MARGIN,
    Demand,
    Load,
    Row,
    Running,
    choose,
    predict,
    replan,
    smallest_feasible_budget_ms,
)
from tests.serve.models import tiny_menu

MENU = tiny_menu()  # neurons: S 24, M 48, L 96, XL 192
COST = StepCostModel(prefill=(0, 0, 1.0, 0.01, 0), decode=(0, 0.5, 1.0, 0, 0.01), relative_error=0.0)
IDLE = Load(slots=4)


def demand(**budget: float) -> Demand:
    return Demand(prompt_tokens=10, max_tokens=11, budget=Budget(**budget))


def test_a_prediction_on_an_idle_engine_is_prefill_and_steps() -> None:
    prefill = 10 * 1.0 + 10 * 24 * 0.01
    step = 24 * 0.5 + 1.0 + (10 + 5) * 0.01
    assert predict(COST, IDLE, demand(), 24) == Timing(
        ttft_ms=pytest.approx(prefill), tpot_ms=pytest.approx(step), e2e_ms=pytest.approx(prefill + 10 * step)
    )


def test_a_step_costs_what_its_widest_row_costs_and_who_waits_ahead_is_prefilled_first() -> None:
    running = Row(neurons=192, floor=192, context=50, remaining=30)
    ahead = Row(neurons=96, floor=96, context=20, remaining=30)
    predicted = predict(COST, Load(slots=4, running=(running,), ahead=(ahead,), steps_before_prefill=1), demand(), 24)
    busy = 192 * 0.5 + 2 * 1.0 + 70 * 0.01
    ttft = (20 + 20 * 96 * 0.01) + 2 * busy + (10 + 10 * 24 * 0.01)
    assert predicted.ttft_ms == pytest.approx(ttft)
    assert predicted.tpot_ms == pytest.approx(192 * 0.5 + 3 * 1.0 + (70 + 15) * 0.01)


def test_without_a_free_slot_the_wait_lasts_until_the_first_row_may_end() -> None:
    rows = tuple(Row(neurons=24, floor=24, context=0, remaining=remaining) for remaining in (40, 7))
    load = Load(slots=2, running=rows)
    step = 24 * 0.5 + 2
    assert predict(COST, load, demand(), 24).ttft_ms == pytest.approx(7 * step + 12.4)
    queued = replace(load, ahead=(Row(neurons=24, floor=24, context=0, remaining=5),))
    assert predict(COST, queued, demand(), 24).ttft_ms == pytest.approx((12 + 1) * step + 12.4)


def test_rows_that_may_be_narrowed_count_as_narrow_as_the_newcomer() -> None:
    load = Load(slots=4, running=(Row(neurons=192, floor=24, context=15, remaining=30),))
    assert predict(COST, load, demand(), 48).tpot_ms == pytest.approx(48 * 0.5 + 2 + 0.3)


def test_tight_medium_and_generous_budgets_get_small_medium_and_large() -> None:
    chosen = [choose(MENU, COST, IDLE, demand(e2e_ms=ms)).option.name for ms in (200, 330, 620, 1300)]
    assert chosen == ["S", "M", "L", "XL"]


@pytest.mark.parametrize("kind", ["ttft_ms", "tpot_ms", "e2e_ms"])
def test_every_kind_of_budget_binds(kind: str) -> None:
    limit = getattr(predict(COST, IDLE, demand(), 48), kind) * MARGIN
    assert choose(MENU, COST, IDLE, demand(**{kind: limit * 1.001})).option.name == "M"
    assert choose(MENU, COST, IDLE, demand(**{kind: limit * 0.999})).option.name == "S"


def test_a_budget_that_nothing_meets_gets_the_narrowest_and_says_so() -> None:
    choice = choose(MENU, COST, IDLE, demand(e2e_ms=1))
    assert (choice.option.name, choice.met) == ("S", False)


def test_no_budget_gets_the_universal_model_under_any_load() -> None:
    load = Load(slots=1, running=(Row(neurons=192, floor=192, context=90, remaining=500),))
    choice = choose(MENU, COST, load, demand())
    assert (choice.option, choice.met) == (MENU.universal, None)


def test_a_pinned_submodel_stays_whatever_the_budget() -> None:
    pinned = replace(demand(e2e_ms=1), pinned=MENU.named["L"])
    choice = choose(MENU, COST, IDLE, pinned)
    assert (choice.option.name, choice.met) == ("L", False)


rows = st.builds(
    lambda neurons, floor, context, remaining: Row(
        neurons=neurons, floor=min(floor, neurons), context=context, remaining=remaining
    ),
    st.integers(24, 192),
    st.integers(24, 192),
    st.integers(1, 100),
    st.integers(1, 100),
)
loads = st.builds(
    Load,
    slots=st.integers(5, 8),
    running=st.lists(rows, max_size=5).map(tuple),
    ahead=st.lists(rows, max_size=12).map(tuple),
    behind=st.lists(rows, max_size=6).map(tuple),
    steps_before_prefill=st.integers(0, 1),
)
limits = st.one_of(st.none(), st.floats(1, 20_000))
budgets = st.builds(Budget, ttft_ms=limits, tpot_ms=limits, e2e_ms=limits).filter(bool)
demands = st.builds(
    Demand,
    prompt_tokens=st.integers(1, 60),
    max_tokens=st.integers(1, 60),
    budget=budgets,
    waited_ms=st.floats(0, 1000),
)


@given(loads, demands, st.floats(1, 10))
def test_a_larger_budget_never_gets_a_narrower_submodel(load: Load, asked: Demand, factor: float) -> None:
    larger = Budget(**{f"{kind}_ms": limit * factor for kind, limit in asked.budget.items().items()})
    before, after = choose(MENU, COST, load, asked), choose(MENU, COST, load, replace(asked, budget=larger))
    assert after.option.neurons >= before.option.neurons


@given(loads, demands, rows, st.sampled_from(["running", "ahead"]))
def test_more_load_never_gets_a_wider_submodel(load: Load, asked: Demand, row: Row, where: str) -> None:
    more = replace(load, **{where: (*getattr(load, where), row)})
    if len(more.running) > more.slots:
        return
    before, after = choose(MENU, COST, load, asked), choose(MENU, COST, more, asked)
    assert after.option.neurons <= before.option.neurons


@given(loads, demands)
def test_the_smallest_feasible_budget_is_feasible_and_less_is_not(load: Load, asked: Demand) -> None:
    feasible = smallest_feasible_budget_ms(MENU, COST, load, asked)
    assert feasible.keys() == asked.budget.items().keys()
    budget = Budget(**{f"{kind}_ms": value for kind, value in feasible.items()})
    assert choose(MENU, COST, load, replace(asked, budget=budget)).met
    for kind, value in feasible.items():
        less = replace(budget, **{f"{kind}_ms": value - 0.11})
        assert not choose(MENU, COST, load, replace(asked, budget=less)).met or value < 0.11


def running(name: str, left_ms: float | None, *, may_narrow: bool = True, remaining: int = 10) -> Running:
    return Running(option=MENU.named[name], context=0, remaining=remaining, may_narrow=may_narrow, left_ms=left_ms)


def names(*options: Running, stall_ms: float = 0.0) -> list[str]:
    return [option.name for option in replan(MENU, COST, options, stall_ms=stall_ms)]


def test_rows_in_time_keep_their_width() -> None:
    assert names(running("XL", 10_000), running("S", 10_000), running("XL", None, may_narrow=False)) == [
        "XL",
        "S",
        "XL",
    ]


def test_a_late_row_is_narrowed_as_far_as_needed() -> None:
    step = 48 * 0.5 + 1
    assert names(running("XL", 10 * step * MARGIN * 1.01)) == ["M"]


def test_a_row_with_time_to_spare_is_narrowed_for_the_sake_of_a_late_one() -> None:
    step = 48 * 0.5 + 2
    assert names(running("XL", 10_000), running("L", 10 * step * MARGIN * 1.01)) == ["M", "M"]


def test_a_hopeless_row_takes_nobody_with_it() -> None:
    assert names(running("XL", 10_000), running("L", -5.0)) == ["XL", "S"]


def test_rows_without_a_budget_or_with_a_pin_are_never_narrowed() -> None:
    assert names(running("L", -5.0, may_narrow=False), running("XL", None, may_narrow=False)) == ["L", "XL"]


def test_prefills_to_come_count_against_a_row() -> None:
    left = 10 * (192 * 0.5 + 1) * MARGIN * 1.01
    assert names(running("XL", left)) == ["XL"]
    assert names(running("XL", left), stall_ms=50.0) == ["L"]


@given(
    st.lists(
        st.builds(
            running,
            st.sampled_from(list(MENU.named)),
            st.one_of(st.none(), st.floats(-100, 3000)),
            may_narrow=st.booleans(),
            remaining=st.integers(1, 50),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_a_row_is_never_widened_and_only_those_that_may_are_narrowed(before: list[Running]) -> None:
    for row, option in zip(before, replan(MENU, COST, before), strict=True):
        assert option.neurons <= row.option.neurons
        assert row.may_narrow or option == row.option


def test_an_option_no_better_than_a_narrower_one_is_not_elastic() -> None:
    from serve.menu import _worth_their_cost

    good = Option(name="good", submodel=Submodel((1, 2)), loss=1.0)
    worse = Option(name="worse", submodel=Submodel((2, 2)), loss=1.5)
    best = Option(name="best", submodel=Submodel((4, 4)), loss=0.5)
    assert _worth_their_cost([best, worse, good]) == (best, good)
