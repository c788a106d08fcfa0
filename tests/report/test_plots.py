from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lts_ray.precision import Precision
from lts_ray.proxies.agreement import common_ratio, proxy_front_distance, spearman
from lts_ray.report.curve_plot import curve_figure
from lts_ray.report.front_plot import front_figure, front_figure_3d
from lts_ray.report.hover_text import hover_text
from lts_ray.report.proxy_agreement import proxy_agreement
from lts_ray.report.proxy_plot import proxy_figure
from lts_ray.report.report_data import ReportData, report_data
from lts_ray.report.search_page import render
from tests.report.searches import ARCHITECTURES, SUBMODELS, TARGETS, backbone_search, submodel_search


@pytest.fixture(scope="module")
def of_submodels(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = tmp_path_factory.mktemp("submodels")
    other = submodel_search(folder / "other", algorithm="random", seed=1)
    return report_data(submodel_search(folder / "search"), SUBMODELS, {"other": other})


@pytest.fixture(scope="module")
def of_architectures(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = tmp_path_factory.mktemp("architectures")
    return report_data(backbone_search(folder / "search", algorithm="random", evaluations=40), ARCHITECTURES)


def trace(figure: Any, name: str) -> Any:
    return next(each for each in figure.data if each.name == name)


@pytest.mark.parametrize("target", TARGETS)
def test_every_candidate_is_drawn_once_on_the_front_or_off_it(of_submodels: ReportData, target: str) -> None:
    for figure in (front_figure(of_submodels, target, "decode_ms"), front_figure_3d(of_submodels, target)):
        front, rest = trace(figure, "front"), trace(figure, "evaluated")
        assert len(front.x) == len(of_submodels.front(target))
        assert len(front.x) + len(rest.x) == len(of_submodels.evaluated)


@pytest.mark.parametrize("target", TARGETS)
def test_three_dimensions_are_latency_memory_and_quality_in_their_units(of_submodels: ReportData, target: str) -> None:
    figure = front_figure_3d(of_submodels, target)
    drawn = trace(figure, "front")
    costs = [each.measured[target].cost for each in of_submodels.front(target)]
    assert drawn.type == "scatter3d"
    assert list(drawn.x) == [each.decode_ms for each in costs]
    assert list(drawn.y) == list(drawn.marker.color) == [each.peak_memory_mb for each in costs]
    assert list(drawn.z) == [each.loss for each in of_submodels.front(target)]
    assert sorted(trace(figure, "trained granularity").text) == ["<b>L</b>", "<b>M</b>", "<b>S</b>", "<b>XL</b>"]


def test_three_dimensions_take_the_latency_that_was_searched(of_submodels: ReportData) -> None:
    settings = replace(of_submodels.settings, latency="prefill")
    prefill = front_figure_3d(replace(of_submodels, settings=settings), "slow")
    assert list(trace(prefill, "front").x) == [
        each.measured["slow"].cost.prefill_ms for each in of_submodels.front("slow")
    ]
    assert prefill.layout.scene.xaxis.title.text == "prefill, ms"


def test_decoder_parameters_are_drawn_as_millions_upwards(of_architectures: ReportData) -> None:
    for figure in (front_figure(of_architectures, "slow", "decode_ms"), front_figure_3d(of_architectures, "slow")):
        front = trace(figure, "front")
        drawn = front.z if front.type == "scatter3d" else front.y
        assert list(drawn) == [each.decoder_params / 1e6 for each in of_architectures.front("slow")]
        assert min(drawn) > 0
        assert all(each.name != "trained granularity" for each in figure.data)


@pytest.mark.parametrize("kind", ["of_submodels", "of_architectures"])
def test_the_joined_points_only_get_better_with_latency(kind: str, request: pytest.FixtureRequest) -> None:
    data: ReportData = request.getfixturevalue(kind)
    for axis in ("prefill_ms", "decode_ms"):
        (line,) = (each for each in front_figure(data, "slow", axis).data if each.mode == "lines")
        assert list(line.x) == sorted(line.x)
        better = [-value if data.scale.is_loss else value for value in line.y]
        assert better == sorted(better)
        assert len(line.x) > 2


def test_each_search_is_a_line_and_this_one_is_thick_and_on_top(of_submodels: ReportData) -> None:
    figure = curve_figure(of_submodels, "slow")
    assert [each.name for each in figure.data] == ["random, seed 1", "<b>lts, seed 0</b>"]
    assert figure.data[-1].line.width > figure.data[0].line.width
    assert figure.data[-1].line.color != figure.data[0].line.color
    assert list(figure.data[-1].y) == list(of_submodels.curves["slow"][0].values)
    assert list(figure.data[0].x) == list(range(1, 61))


def test_the_proxy_section_agrees_with_the_functions_that_define_it(of_submodels: ReportData) -> None:
    params = [float(each.decoder_params) for each in of_submodels.evaluated]
    truth = [-each.loss for each in of_submodels.evaluated]
    proxy = of_submodels.proxy
    assert proxy is not None
    assert proxy.count == len(params)
    assert proxy.spearman == spearman(params, truth)
    assert proxy.common_ratios == {
        10: common_ratio(params, truth, percent=10),
        20: common_ratio(params, truth, percent=20),
    }
    for target in TARGETS:
        distance = proxy_front_distance(
            latencies=[each.measured[target].cost.decode_ms for each in of_submodels.evaluated],
            proxy=params,
            perplexities=[math.exp(each.loss) for each in of_submodels.evaluated],
        )
        assert proxy.distances[target] == {"decode": distance}
    figure = proxy_figure(of_submodels)
    assert len(trace(figure, "on a front").x) == sum(bool(each.fronts) for each in of_submodels.evaluated)


def test_shapes_tell_precisions_apart_and_the_proxy_is_of_one(tmp_path: Path) -> None:
    precisions: tuple[Precision, ...] = ("float32", "int4")
    search = submodel_search(tmp_path / "search", evaluations=30, precisions=precisions)
    data = report_data(search, replace(SUBMODELS, precisions=precisions))
    assert data.precisions == precisions
    shapes = {"float32": "circle", "int4": "x"}
    for figure in (front_figure(data, "slow", "decode_ms"), front_figure_3d(data, "slow")):
        front = data.front("slow")
        assert list(trace(figure, "front").marker.symbol) == [shapes[each.precision] for each in front]
        named = {text for text in trace(figure, "trained granularity").text if text}
        assert named == {"<b>S</b>", "<b>M</b>", "<b>L</b>", "<b>XL</b>"}
    flat = front_figure(data, "slow", "decode_ms")
    assert {name: trace(flat, name).marker.symbol for name in precisions} == shapes
    assert {each.precision for each in front} == set(precisions)
    for each in front:
        assert each.parts["precision"] == each.precision
        assert "@" not in each.parts["widths"]
        assert ("@int4" in hover_text(data, each, "slow")) == (each.precision == "int4")
    stored = [each for each in data.evaluated if each.precision == "float32"]
    assert data.proxy is not None
    assert data.proxy.count == len(stored) < len(data.evaluated)
    assert sum(len(each.x) for each in proxy_figure(data).data) == len(stored)
    page = render(data)
    assert "in float32, which lean" in " ".join(page.split())
    assert "float32/int4" in page


def test_one_candidate_has_no_order_for_a_proxy_to_agree_on() -> None:
    assert proxy_agreement([1], [], "decode") is None


def test_the_mouse_shows_name_widths_quality_and_costs_with_their_intervals(of_submodels: ReportData) -> None:
    point = of_submodels.front("slow")[0]
    text = hover_text(of_submodels, point, "slow")
    low, high = point.measured["slow"].decode.interval_ms
    assert low < high
    for part in (
        f"<b>{point.name}</b>",
        point.description,
        f"loss {point.loss:.4f}, perplexity {math.exp(point.loss):.2f}",
        f"{point.decoder_params:,} decoder parameters",
        f"({low:.3f} – {high:.3f})",
        f"memory {point.measured['slow'].cost.peak_memory_mb:.1f} MB",
    ):
        assert part in text


def test_a_long_description_is_broken_into_lines(of_architectures: ReportData) -> None:
    widest = max(of_architectures.evaluated, key=lambda each: len(each.description))
    lines = hover_text(of_architectures, widest, "slow").split("<br>")
    assert len(widest.description) > 100
    assert max(len(line) for line in lines) <= 60
    assert widest.description in " ".join(lines)


def test_a_name_with_markup_is_shown_as_it_is_written(of_submodels: ReportData, tmp_path: Path) -> None:
    point = replace(of_submodels.points[0], name="<b>a</b>", description="<i>x</i>")
    text = hover_text(of_submodels, point)
    assert "&lt;b&gt;a&lt;/b&gt;" in text
    assert "&lt;i&gt;x&lt;/i&gt;" in text
