from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lts_ray.checkpoints.universal import read_universal, vouched
from lts_ray.frontier import Frontier, FrontierPoint
from lts_ray.models.gemma3n.gemma3n_config import Gemma3nConfig
from lts_ray.runtime.step_costs import PlaneCosts, StepCosts
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from serve.policies.menu import Menu, Option, menu_of_frontier, menu_of_granularities
from serve.replica import matching_target
from tests.serve.models import CONFIG


def point(name: str, *widths: int, loss: float, fronts: tuple[str, ...] = ("small",)) -> FrontierPoint:
    submodel = Submodel(widths)
    params = CONFIG.decoder_params(submodel)
    return FrontierPoint(name=name, submodel=submodel, decoder_params=params, loss=loss, costs={}, fronts=fronts)


def target(name: str, **labels: str) -> tuple[str, Target]:
    return name, Target(name=name, label_selector=labels, local=not labels)


FRONTIER = Frontier(
    model_fingerprint="f",
    quality="validation_loss",
    targets=dict([target("small", role="small"), target("large", role="large", zone="in(a,b)"), target("here")]),
    points=(
        point("XL", 64, 64, 64, loss=1.0),
        point("0.62", 24, 32, 64, loss=1.5),
        point("worse", 32, 32, 64, loss=1.6),
        point("L", 32, 32, 32, loss=2.0, fronts=()),
        point("S", 8, 8, 8, loss=4.0),
    ),
)


def test_without_a_frontier_the_granularities_are_on_the_menu() -> None:
    menu = menu_of_granularities(CONFIG, {"S": 4.0, "M": 3.0, "L": 2.0, "XL": 1.0})
    assert [option.name for option in menu.elastic] == ["XL", "L", "M", "S"]
    assert menu.universal.submodel == CONFIG.universal
    assert list(menu.named) == ["S", "M", "L", "XL"]


def test_without_measured_losses_a_larger_granularity_counts_as_better() -> None:
    assert [option.name for option in menu_of_granularities(CONFIG, {"S": 4.0}).elastic] == ["XL", "L", "M", "S"]


def test_a_granularity_that_training_made_no_better_than_a_smaller_one_is_never_chosen() -> None:
    menu = menu_of_granularities(CONFIG, {"S": 4.0, "M": 4.1, "L": 2.0, "XL": 1.0})
    assert [option.name for option in menu.elastic] == ["XL", "L", "S"]
    assert "M" in menu.named


def names(menu: Menu) -> list[str]:
    return [option.name for option in menu.elastic]


def test_what_nothing_vouches_for_is_named_and_never_chosen_by_a_budget() -> None:
    """A checkpoint as it is published: S is a few of its neurons, and says nothing that means anything."""
    plain = menu_of_granularities(CONFIG, {}, vouched={"XL"})
    assert (names(plain), set(plain.named), plain.untrained) == (["XL"], {"S", "M", "L", "XL"}, {"S", "M", "L"})
    assert not plain.universal.untrained
    half = menu_of_granularities(CONFIG, {"S": 4.0, "XL": 1.0}, vouched={"S", "XL"})
    assert (names(half), half.untrained) == (["XL", "S"], {"M", "L"})
    assert {name: option.loss for name, option in half.named.items()} == {"S": 4.0, "M": None, "L": None, "XL": 1.0}


def test_a_measured_loss_vouches_for_a_point_and_so_does_a_model_that_was_trained_around_it() -> None:
    unmeasured = Frontier(
        model_fingerprint="f",
        quality="decoder_params",
        targets=FRONTIER.targets,
        points=tuple(replace(each, loss=None) for each in FRONTIER.points),
    )
    assert names(menu_of_frontier(CONFIG, FRONTIER, "small", vouched={"XL"})) == ["XL", "0.62", "S"]
    assert names(menu_of_frontier(CONFIG, unmeasured, "small", vouched={"XL"})) == ["XL"]
    assert menu_of_frontier(CONFIG, unmeasured, "small", vouched={"XL"}).untrained == {"0.62", "worse", "L", "S"}
    assert names(menu_of_frontier(CONFIG, unmeasured, "small", vouched={"S", "XL"})) == ["XL", "S"]
    nested = menu_of_frontier(CONFIG, unmeasured, "small", vouched=CONFIG.trained)
    assert (names(nested), nested.untrained) == (["XL", "worse", "0.62", "S"], frozenset())


def test_a_training_vouches_by_what_it_measured_and_gemma_3n_as_it_is_published(model_dir: Path) -> None:
    config, losses = read_universal(model_dir)
    assert vouched(config, losses) == {"S", "M", "L", "XL"}
    assert vouched(config, {}) == vouched(config, {"XL": 1.0}) == {"XL"}
    gemma = Gemma3nConfig()
    assert vouched(gemma, {}) == set(gemma.trained)


def test_a_frontier_offers_its_targets_front_and_names_every_point() -> None:
    menu = menu_of_frontier(CONFIG, FRONTIER, "small")
    assert [option.name for option in menu.elastic] == ["XL", "0.62", "S"]
    assert set(menu.named) == {"XL", "0.62", "worse", "L", "S"}
    assert [option.name for option in menu_of_frontier(CONFIG, FRONTIER, None).elastic] == ["XL", "0.62", "L", "S"]


def test_the_universal_model_is_served_even_if_the_frontier_lacks_it() -> None:
    frontier = Frontier(
        model_fingerprint="f", quality="validation_loss", targets=FRONTIER.targets, points=FRONTIER.points[1:]
    )
    menu = menu_of_frontier(CONFIG, frontier, "small")
    assert menu.universal.submodel == CONFIG.universal
    assert menu.named["XL"] is menu.universal
    assert menu.elastic[0].name == "0.62"


BOTH = ("int8", "int4")


def test_each_granularity_is_served_at_each_precision_and_its_plain_name_is_the_most_precise() -> None:
    losses = {"S": 4.0, "M": 3.0, "L": 2.0, "XL": 1.0, "XL@int8": 1.001, "S@int4": 4.25}
    menu = menu_of_granularities(CONFIG, losses, precisions=BOTH)
    assert [option.name for option in menu.options] == [f"{name}@{at}" for at in BOTH for name in ("S", "M", "L", "XL")]
    for name in ("S", "M", "L", "XL"):
        assert menu.named[name] is menu.named[f"{name}@int8"]
        assert menu.named[f"{name}@int4"].submodel == CONFIG.submodel(f"{name}@int4")
    assert menu.universal is menu.named["XL@int8"]
    told = {option.name: option.loss for option in menu.options if option.loss is not None}
    assert told == {"XL@int8": 1.001, "S@int4": 4.25}
    every = menu_of_granularities(CONFIG, losses, precisions=("float32", *BOTH))
    assert every.universal is every.named["XL"]
    assert every.named["XL"].submodel == CONFIG.universal
    assert len(every.named) == len(every.options) == 12


@pytest.mark.parametrize("losses", [{"S": 4.0, "M": 3.0, "L": 2.0, "XL": 1.0}, {}], ids=["stored", "none"])
def test_losses_that_were_not_measured_are_not_told_and_fewer_bits_of_one_width_are_worse(
    losses: dict[str, float],
) -> None:
    menu = menu_of_granularities(CONFIG, losses, precisions=("float32", *BOTH))
    for name in ("S", "M", "L", "XL"):
        options = [menu.named[name], menu.named[f"{name}@int8"], menu.named[f"{name}@int4"]]
        assert [option.loss for option in options] == [losses.get(name), None, None]
        shortfalls = [option.shortfall for option in options]
        assert shortfalls == sorted(set(shortfalls))
    assert menu.untrained == frozenset()


def test_parts_that_were_never_trained_are_not_in_fewer_bits_either() -> None:
    menu = menu_of_granularities(CONFIG, {}, vouched={"XL"}, precisions=BOTH)
    assert {option.name for option in menu.options if not option.untrained} == {"XL@int8", "XL@int4"}
    assert {option.name.partition("@")[0] for option in menu.elastic} == {"XL"}


def at(name: str, *widths: int, precision: str, loss: float) -> FrontierPoint:
    plain = point(name, *widths, loss=loss)
    return replace(plain, submodel=replace(plain.submodel, precision=precision))


def test_a_frontiers_points_are_served_at_their_own_precision_where_that_is_served() -> None:
    mixed = replace(
        FRONTIER,
        points=(
            at("XL", 64, 64, 64, precision="", loss=1.0),
            at("XL@int8", 64, 64, 64, precision="int8", loss=1.001),
            at("0.62", 24, 32, 64, precision="", loss=1.5),
            at("0.62@int4", 24, 32, 64, precision="int4", loss=1.6),
            at("S@int4", 8, 8, 8, precision="int4", loss=4.1),
        ),
    )
    whole = menu_of_frontier(CONFIG, mixed, "small", precisions=("float32", *BOTH))
    assert {name: option.loss for name, option in whole.named.items()} == {
        "XL": 1.0,
        "XL@int8": 1.001,
        "0.62": 1.5,
        "0.62@int4": 1.6,
        "S": 4.1,
        "S@int4": 4.1,
    }
    assert whole.named["S"] is whole.named["S@int4"]
    half = menu_of_frontier(CONFIG, mixed, "small", precisions=BOTH)
    assert {name: (option.name, option.loss) for name, option in half.named.items()} == {
        "XL": ("XL@int8", 1.001),
        "0.62": ("0.62@int8", None),
        "S": ("S@int4", 4.1),
        "XL@int8": ("XL@int8", 1.001),
        "0.62@int8": ("0.62@int8", None),
        "0.62@int4": ("0.62@int4", 1.6),
        "S@int4": ("S@int4", 4.1),
    }
    assert half.universal is half.named["XL@int8"]
    assert set(menu_of_frontier(CONFIG, mixed, "small").named) == {"XL", "0.62"}


def test_a_node_takes_the_target_whose_labels_it_has() -> None:
    assert matching_target(FRONTIER, {"role": "small"}, "cpu") == "small"
    assert matching_target(FRONTIER, {"role": "large", "zone": "b"}, "cpu") == "large"
    assert matching_target(FRONTIER, {"role": "large", "zone": "c"}, "cpu") is None
    assert matching_target(FRONTIER, {}, "cpu") is None
    assert matching_target(FRONTIER, {"role": "small"}, "cuda") is None


PRECISE = ("float32", "int8", "int4")
FLAT = (0.0, 0.0)


def planes(*, upper: float, lower: float, computed: float) -> StepCosts:
    """Of one row a plane costs what is said for each neuron; of 100 rows a neuron costs `computed` at any precision."""
    return StepCosts(
        grid=(1, 101),
        base=FLAT,
        neuron=(0.1, 0.1 + computed),
        head=FLAT,
        attended=0.0,
        beside=(
            PlaneCosts(plane="upper", base=FLAT, neuron=(upper, upper + computed), head=FLAT),
            PlaneCosts(plane="lower", base=FLAT, neuron=(lower, lower), head=FLAT),
        ),
    )


def test_options_that_no_other_beats_in_bytes_and_products_are_chosen_among_the_best_first() -> None:
    """XL in 4 bits reads less than any L, and loses less than that; nothing beats a width in fewer bits of itself."""
    losses = {"S": 4.0, "M": 3.0, "L": 2.0, "XL": 1.0}
    menu = menu_of_granularities(CONFIG, losses, precisions=PRECISE)
    assert menu.narrowest.name == "S@int4"
    assert names(menu)[:3] == ["XL", "XL@int8", "XL@int4"]
    losses_of = [option.shortfall for option in menu.elastic]
    assert losses_of == sorted(losses_of)
    only = menu_of_granularities(CONFIG, {**losses, "XL@int4": 9.0}, precisions=PRECISE)
    assert "XL@int4" not in names(only)
    assert "XL@int4" in only.named


def test_steps_that_were_measured_say_which_options_are_worth_it() -> None:
    """Here 8 bits are as slow as float32, and 4 bits fast with few rows: but for 4 bits only float32 is worth it."""
    losses = {"S": 4.0, "M": 3.0, "L": 2.0, "XL": 1.0}
    menu = menu_of_granularities(CONFIG, losses, precisions=PRECISE)
    found = names(menu.priced(planes(upper=0.02, lower=0.08, computed=0.3)))
    assert found == ["XL", "XL@int4", "L", "L@int4", "M", "M@int4", "S", "S@int4"]
    slow = names(menu.priced(planes(upper=0.2, lower=0.2, computed=0.1)))
    assert slow == ["XL", "L", "M", "S"]


@given(st.lists(st.floats(0.5, 5.0), min_size=12, max_size=12), st.lists(st.floats(0.0, 0.2), min_size=3, max_size=3))
def test_no_option_that_is_left_out_is_better_and_cheaper_with_few_rows_and_with_many(
    losses: list[float], each: list[float]
) -> None:
    kinds = [f"{width}{at}" for at in ("", "@int8", "@int4") for width in ("S", "M", "L", "XL")]
    costs = planes(upper=each[0], lower=each[1], computed=each[2])
    menu = menu_of_granularities(CONFIG, dict(zip(kinds, losses, strict=True)), precisions=PRECISE).priced(costs)

    def ms(option: Option, rows: int) -> float:
        return costs.step_ms([option.group(rows, 0, rows)])

    for option in menu.elastic:
        for other in menu.options:
            if other.shortfall < option.shortfall:
                assert any(ms(option, rows) < ms(other, rows) for rows in (1, 8, 64))
    assert ms(menu.narrowest, 8) <= min(ms(option, 8) for option in menu.options) * 1.021
