"""The figure and the page of laws that are known: what is drawn where, and that text cannot break the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scaling import Result, fit_points
from benchmarks.scaling_html import write_scaling_page
from benchmarks.scaling_law import ScalingLaw
from benchmarks.scaling_plot import KIND_NAMES, PANELS, scaling_figure
from benchmarks.scaling_points import ScalingPoint
from lts_ray.report.page import figure_html, write_page

LAWS = {"universal": ScalingLaw(a=20.0, b=-0.2, c=1.5), "baseline": ScalingLaw(a=25.0, b=-0.25, c=1.75)}
SHARES = {"S": 1, "XL": 2}


@pytest.fixture(scope="module")
def result() -> Result:
    return fit_points(
        [
            ScalingPoint(
                kind=kind,  # type: ignore[arg-type]
                granularity=name,
                d_model=size,
                params=share * size**2,
                tokens=1000 * size,
                loss=law.loss_at(share * size**2),
            )
            for kind, law in LAWS.items()
            for name, share in SHARES.items()
            for size in (100, 200, 400, 800)
        ]
    )


def test_each_law_is_a_line_solid_or_dashed_through_the_points_it_was_fitted_to(result: Result) -> None:
    figure = scaling_figure(result)
    lines = [each for each in figure.data if each.mode == "lines"]
    markers = [each for each in figure.data if each.mode == "markers"]
    assert len(lines) == len(markers) == 6
    for line, points in zip(lines, markers, strict=True):
        kind = {"solid": "universal", "dash": "baseline"}[line.line.dash]
        together = line.xaxis == "x2"
        assert len(points.x) == (8 if together else 4)
        assert (line.x[0], line.x[-1]) == pytest.approx((min(points.x), max(points.x)))
        for x, y in [*zip(line.x, line.y, strict=True), *zip(points.x, points.y, strict=True)]:
            assert y == pytest.approx(LAWS[kind].loss_at(x), abs=1e-4)
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    assert {each.text for each in figure.layout.annotations} == set(PANELS)


def test_the_legend_names_each_granularity_and_each_kind_once(result: Result) -> None:
    figure = scaling_figure(result)
    shown = [each.name for each in figure.data if each.showlegend]
    assert sorted(shown) == sorted([*SHARES, *KIND_NAMES.values()])
    colours = {each.name: each.line.color for each in figure.data if each.mode == "lines" and each.xaxis == "x"}
    assert len(set(colours.values())) == 2


def test_the_page_has_each_law_with_its_numbers_and_each_gap(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "scaling.html"
    write_scaling_page(result, path)
    page = path.read_text(encoding="utf-8")
    assert page.count("20 · N<sup>-0.2000</sup> + 1.500") == 3
    assert page.count("25 · N<sup>-0.2500</sup> + 1.750") == 3
    gap = LAWS["universal"].loss_at(2 * 800**2) - LAWS["baseline"].loss_at(2 * 800**2)
    assert f"<td>{gap:+.4f}</td>" in page
    assert 'id="scaling"' in page
    assert "<script src=" not in page


def test_a_page_is_whole_and_text_in_it_stays_text(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    figure = figure_html(scaling_figure(result), "one")
    write_page(path, "<p>{{ text }}</p>\n{{ figure }}\n", title="a <title>", text="<b>&", figure=figure)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.endswith("</main>\n</body>\n</html>")
    assert "<title>a &lt;title&gt;</title>" in page
    assert "<p>&lt;b&gt;&amp;</p>" in page
    assert page.count('id="one"') == 1
    assert page.count("plotly.js v") == 1
