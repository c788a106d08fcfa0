"""The report in a headless Chromium: on a wide screen and a phone, light and dark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser

from lts_ray.precision import Precision
from lts_ray.report.report_data import report_data
from lts_ray.report.search_page import render
from tests.report.searches import SUBMODELS, submodel_search

LOOKS = """() => {
  const boxes = (selector, within) => [...within.querySelectorAll(selector)]
    .filter((each) => each.textContent.trim()).map((each) => [each.textContent, each.getBoundingClientRect()]);
  const meet = (one, other) => one.left < other.right - 1 && other.left < one.right - 1
    && one.top < other.bottom - 2 && other.top < one.bottom - 2;
  const overlaps = [];
  const outside = [];
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const [texts, frame] = [boxes(".main-svg text", plot), plot.getBoundingClientRect()];
    texts.forEach(([text, box], place) => {
      for (const [other, beside] of texts.slice(0, place)) if (meet(box, beside)) overlaps.push([plot.id, text, other]);
      if (box.left < frame.left - 1 || box.right > frame.right + 1) outside.push([plot.id, text]);
    });
  }
  const names = [...document.querySelectorAll("#front-0-decode_ms .textpoint text")].map((each) => {
    const plane = document.querySelector("#front-0-decode_ms .gridlayer").getBoundingClientRect();
    return [each.textContent, each.getBoundingClientRect().left >= plane.left - 1];
  });
  const ink = [...document.querySelectorAll(".main-svg text")].map((each) => getComputedStyle(each).fill);
  return { overlaps, outside, names, ink: [...new Set(ink)],
    page: getComputedStyle(document.body).backgroundColor, wide: document.documentElement.scrollWidth };
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    precisions: tuple[Precision, ...] = ("float32", "int8", "int4")
    search = submodel_search(folder / "search", latency="both", precisions=precisions)
    path: Path = folder / "report.html"
    path.write_text(render(report_data(search, replace(SUBMODELS, precisions=precisions))), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_labels_stand_apart_and_the_page_has_the_readers_colours(
    browser: Browser, address: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(600_000)
    page.goto(address)
    page.wait_for_selector("#proxy .main-svg text")
    looks: dict[str, Any] = page.evaluate(LOOKS)
    page.close()
    assert (looks["overlaps"], looks["outside"]) == ([], [])
    assert looks["wide"] <= width
    assert sorted(looks["names"]) == [["L", True], ["M", True], ["S", True], ["XL", True]]
    ink = "rgb(236, 235, 242)" if scheme == "dark" else "rgb(31, 41, 51)"
    assert looks["ink"] == [ink]
    assert looks["page"] == ("rgb(19, 18, 24)" if scheme == "dark" else "rgb(255, 255, 255)")
