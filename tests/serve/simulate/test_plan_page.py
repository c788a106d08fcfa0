from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from serve.simulate.capacity_plan import CapacityPlan, PlannedFleet, plan_capacity
from serve.simulate.plan_page import answer_text, plan_rows, write_plan_page
from tests.serve.simulate.test_capacity_plan import Load, kinds_of

LOOKS = """() => ({
  wide: document.documentElement.scrollWidth,
  points: [...document.querySelectorAll(".js-plotly-plot")].map((plot) => plot.querySelectorAll(".point").length),
})"""


@pytest.fixture
def plan() -> CapacityPlan:
    load = Load()
    return plan_capacity(kinds_of((1.0, 0, 4), (1.5, 1, 3)), load.whole, wanted=0.95, best_loss=3.0, seed=0)


def test_it_says_which_fleet_is_the_cheapest_or_how_far_the_best_one_goes(plan: CapacityPlan) -> None:
    assert answer_text(plan) == (
        "The cheapest fleet that keeps 95 % of the budgets is 3 kind-0, 2 kind-1 (95.00 % at 6 an hour)."
    )
    marked = [row for row in plan_rows(plan) if row[""]]
    assert [(row["kind-0"], row["kind-1"], row["cost per hour"]) for row in marked] == [(3, 2, 6.0)]
    poor = PlannedFleet(replicas={"a": 1, "b": 0}, cost_per_hour=2.0, attainment=0.5, loss=0.0)
    none = CapacityPlan(wanted=0.99, fleets=1, tried=(poor,), seen=())
    assert answer_text(none) == "No fleet keeps 99 % of the budgets: 1 a (50.00 % at 2 an hour) is the best."
    assert "loss" not in plan_rows(none)[0]  # none is known


def test_its_page_fits_a_phone_and_has_all_that_was_tried(browser: Browser, plan: CapacityPlan, tmp_path: Path) -> None:
    write_plan_page(tmp_path / "index.html", plan, settings={"trace": "a<b"})
    page = browser.new_page(viewport={"width": 390, "height": 900}, color_scheme="light")
    page.set_default_timeout(600_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#loss .main-svg text")
    looks: dict[str, Any] = page.evaluate(LOOKS)
    text = page.inner_text("main")
    page.close()
    assert said == []
    assert looks == {"wide": 390, "points": [len(plan.tried) + 1] * 2}  # the cheapest is marked over itself
    assert "a<b" in text
    assert answer_text(plan) in text
