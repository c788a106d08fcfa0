from __future__ import annotations

from lts_ray.frontier import Frontier, FrontierPoint
from lts_ray.submodel import Submodel
from lts_ray.target import Target
from serve.policies.menu import menu_of_frontier, menu_of_granularities
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


def test_a_node_takes_the_target_whose_labels_it_has() -> None:
    assert matching_target(FRONTIER, {"role": "small"}) == "small"
    assert matching_target(FRONTIER, {"role": "large", "zone": "b"}) == "large"
    assert matching_target(FRONTIER, {"role": "large", "zone": "c"}) is None
    assert matching_target(FRONTIER, {}) is None
