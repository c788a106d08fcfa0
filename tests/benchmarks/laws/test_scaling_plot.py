"""The figure and the page of laws that are known: what is drawn where, and that text cannot break the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.laws.scaling_law import ScalingLaw
from benchmarks.laws.scaling_plot import KIND_NAMES, PANELS, scaling_figure
from benchmarks.laws.scaling_points import ScalingPoint
from benchmarks.scaling import ScalingResult, fit_points, scaling
from lts_ray.report.page import figure_html, write_page

LAWS = {"universal": ScalingLaw(a=20.0, b=-0.2, c=1.5), "baseline": ScalingLaw(a=25.0, b=-0.25, c=1.75)}
SHARES = {"S": 1, "XL": 2}


@pytest.fixture(scope="module")
def result() -> ScalingResult:
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


def test_each_law_is_a_line_solid_or_dashed_through_the_points_it_was_fitted_to(result: ScalingResult) -> None:
    figure = scaling_figure(result.fits)
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


def test_the_legend_names_each_granularity_and_each_kind_once(result: ScalingResult) -> None:
    figure = scaling_figure(result.fits)
    shown = [each.name for each in figure.data if each.showlegend]
    assert sorted(shown) == sorted([*SHARES, *KIND_NAMES.values()])
    colours = {each.name: each.line.color for each in figure.data if each.mode == "lines" and each.xaxis == "x"}
    assert len(set(colours.values())) == 2


def test_the_page_has_each_law_with_its_numbers_and_each_gap(
    result: ScalingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.scaling.read_points", lambda runs: result.points)
    scaling(output=tmp_path, runs=[tmp_path])
    page = (tmp_path / "scaling.html").read_text(encoding="utf-8")
    assert page.count("<td>20</td><td>-0.2</td><td>1.5</td>") == 3
    assert page.count("<td>25</td><td>-0.25</td><td>1.75</td>") == 3
    gap = LAWS["universal"].loss_at(2 * 800**2) - LAWS["baseline"].loss_at(2 * 800**2)
    assert f"<td>{1000 * gap:.4g}</td>" in page
    assert 'id="scaling"' in page
    assert "<script src=" not in page


def test_a_page_is_whole_and_text_in_it_stays_text(result: ScalingResult, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    figure = figure_html(scaling_figure(result.fits), "one")
    write_page(path, "<p>{{ text }}</p>\n{{ figure }}\n", title="a <title>", text="<b>&", figure=figure)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.endswith("</body>\n</html>")
    assert "<title>a &lt;title&gt;</title>" in page
    assert "<p>&lt;b&gt;&amp;</p>" in page
    assert page.count('id="one"') == 1
    assert page.count("plotly.js v") == 1
