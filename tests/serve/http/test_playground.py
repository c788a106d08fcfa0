"""The playground's files and its frontier. The page itself is in test_playground_page.py."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from lts_ray.runtime.step_costs import StepCosts
from lts_ray.submodel import Submodel
from serve.http.playground import PARTS, STATIC, frontier
from serve.policies.menu import Menu, Option, menu_of_granularities
from tests.serve.http.toy_playground import COSTS, LOSS, STEP_MS, Script, Stage, ToyEngine, toy_app
from tests.serve.models import CONFIG


@pytest.fixture
def data() -> Iterator[TestClient]:
    with TestClient(toy_app(Stage(Script()))) as client:
        yield client


def test_the_frontier_is_every_submodel_at_its_predicted_cost_widest_first(data: TestClient) -> None:
    body = data.get("/playground/frontier").json()
    assert (body["model"], body["universal"], body["chat"]) == ("toy", "XL", False)
    assert [each["name"] for each in body["options"]] == ["XL", "L", "M", "S"]
    for each in body["options"]:
        assert each["loss"] == LOSS[each["name"]]
        assert each["predicted_tpot_ms"] == each["predicted_ttft_ms"] == pytest.approx(STEP_MS[each["name"]])
        assert each["elastic"]
        submodel = CONFIG.trained[each["name"]]
        assert each["relative_size"] == CONFIG.decoder_params(submodel) / CONFIG.decoder_params()


def test_a_first_token_costs_its_prompt_and_a_later_one_half_of_the_context() -> None:
    costs = StepCosts(grid=(1, 64), base=(1.0, 64.0), neuron=(0.0, 0.0), head=(0.0, 0.0), attended=1.0)
    option = frontier("toy", ToyEngine().menu, costs, CONFIG)["options"][0]
    assert option["predicted_ttft_ms"] == 32 + sum(range(1, 33))
    assert option["predicted_tpot_ms"] == 1 + CONFIG.context_length // 2 + 1


def test_a_submodel_without_a_loss_or_out_of_the_budgets_reach_says_so() -> None:
    universal = Option.of(CONFIG, CONFIG.universal, name="XL", loss=None)
    small = Option.of(CONFIG, Submodel((20, 20, 20)), name="0.3", loss=3.3)
    menu = Menu(universal=universal, named={"0.3": small, "XL": universal}, elastic=(small,))
    options = frontier("toy", menu, COSTS, CONFIG)["options"]
    assert [(each["name"], each["loss"], each["elastic"]) for each in options] == [
        ("XL", None, False),
        ("0.3", 3.3, True),
    ]


def test_where_no_loss_was_measured_the_parameters_stand_for_quality_under_their_own_name() -> None:
    options = frontier("toy", menu_of_granularities(CONFIG, {}), COSTS, CONFIG)["options"]
    assert {option["loss"] for option in options} == {None}
    params = [option["decoder_params"] for option in options]
    assert params == [CONFIG.decoder_params(CONFIG.trained[name]) for name in ("XL", "L", "M", "S")]


def test_the_page_and_all_that_it_names_are_served_and_may_load_nothing_else(data: TestClient) -> None:
    page = data.get("/playground")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:href|src)="(?!data:)([^"]+)"', page.text))
    named |= {f"playground/{name}" for name in re.findall(r'from "\./([^"]+)"', read_all())}
    assert named == {f"playground/{name}" for name in PARTS}
    for name in PARTS:
        part = data.get(f"/playground/{name}")
        assert part.content == (STATIC / name).read_bytes()
        assert part.headers["content-type"].startswith("text/css" if name.endswith("css") else "text/javascript")
        assert part.headers["content-security-policy"] == page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_no_file_lies_there_unserved_and_none_mentions_another_host() -> None:
    assert {path.name for path in STATIC.iterdir()} == {"playground.html", *PARTS}
    assert set(re.findall(r"https?://[\w./-]+", read_all())) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def read_all() -> str:
    return "\n".join(path.read_text() for path in sorted(STATIC.iterdir()))


@pytest.mark.parametrize("name", ["nothing.js", "playground.html", "..%2fapi.py", "%2e%2e/api.py"])
def test_nothing_else_is_served(data: TestClient, name: str) -> None:
    assert data.get(f"/playground/{name}").status_code == 404
