from __future__ import annotations

import re
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest

from lts_ray.architecture import Architecture
from lts_ray.errors import LtsRayError
from lts_ray.report.hover_text import hover_text
from lts_ray.report.report_data import ReportData, Steadiness, report_data
from lts_ray.report.search_page import render, write_report
from lts_ray.search.search_results import kept_points
from lts_ray.search.search_session import SearchSession
from lts_ray.submodel import Submodel
from tests.report.searches import ARCHITECTURES, SUBMODELS, TARGETS, backbone_search, submodel_search
from tests.search.helpers import CONFIG
from tests.search.helpers import session as started


@pytest.fixture(scope="module")
def submodels(tmp_path_factory: pytest.TempPathFactory) -> SearchSession[Submodel]:
    return submodel_search(tmp_path_factory.mktemp("submodels") / "search", unsteady=10, failing=20)


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> SearchSession[Architecture]:
    return backbone_search(tmp_path_factory.mktemp("architectures") / "search", evaluations=40)


@pytest.fixture(scope="module")
def of_submodels(submodels: SearchSession[Submodel]) -> ReportData:
    return report_data(submodels, SUBMODELS)


@pytest.fixture(scope="module")
def of_architectures(architectures: SearchSession[Architecture]) -> ReportData:
    return report_data(architectures, ARCHITECTURES)


@pytest.fixture(scope="module")
def page_of_submodels(of_submodels: ReportData) -> str:
    return render(of_submodels)


@pytest.fixture(scope="module")
def page_of_architectures(of_architectures: ReportData) -> str:
    return body(render(of_architectures))


def body(page: str) -> str:
    """Without plotly's script, which has every word."""
    return page[page.index("<body>") :]


def test_the_report_is_one_file_that_fetches_nothing(
    submodels: SearchSession[Submodel], page_of_submodels: str, tmp_path: Path
) -> None:
    write_report(submodels, SUBMODELS, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page == page_of_submodels, "the same search gives the same file"
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=", page)
    assert page.count("<script>/**\n* plotly.js v") == 1


def test_no_figure_offers_to_send_its_data_away(page_of_submodels: str) -> None:
    """Plotly's own default is a button that uploads the figure."""
    page = body(page_of_submodels)
    figures = page.count("Plotly.newPlot(")
    assert figures == 4 * len(TARGETS) + 1
    assert page.count('"showSendToCloud": false') == figures
    assert page.count('"modeBarButtons": [') + page.count('"displayModeBar": false') == figures


def test_pooled_latencies_are_shown_with_their_intervals_and_said_to_be(
    submodels: SearchSession[Submodel], of_submodels: ReportData, page_of_submodels: str
) -> None:
    pooling = SearchSession(replace(submodels.plan, pooled_by=attrgetter("precision")), submodels.folder, resume=True)
    data = report_data(pooling, SUBMODELS)
    page = body(render(data))
    assert "pooled from the medians of all submodels" in page
    assert "pooled" not in body(page_of_submodels)
    assert "tokens, in torch" in page
    point = data.front("slow")[0]
    (measured,) = [each for each in of_submodels.evaluated if each.description == point.description]
    low, high = point.measured["slow"].prefill.interval_ms
    assert f"({low:.2f} – {high:.2f})" in hover_text(data, point, "slow")
    assert f"({low:.2f} – {high:.2f})" not in hover_text(of_submodels, measured, "slow")


def test_the_points_are_those_that_the_search_found_in_their_order(
    submodels: SearchSession[Submodel], of_submodels: ReportData
) -> None:
    expected = kept_points(submodels, SUBMODELS)
    assert [each.name for each in of_submodels.points] == [each.name for each in expected]
    assert [each.fronts for each in of_submodels.points] == [each.fronts for each in expected]
    assert len(of_submodels.joint) == len(submodels.joint_front())
    for target in TARGETS:
        assert len(of_submodels.front(target)) == len(submodels.front(target))


def test_every_point_has_a_row_with_its_widths_and_size(of_submodels: ReportData, page_of_submodels: str) -> None:
    table = page_of_submodels.split("<h2>The submodels kept</h2>")[1]
    assert table.count("<tr") - 2 >= len(of_submodels.points)
    for point in of_submodels.points:
        assert f'<td class="text">{point.name}</td>' in table
        assert point.description in table
        assert f"{point.decoder_params:,}" in table


def test_costs_off_a_targets_front_are_grey(of_submodels: ReportData, page_of_submodels: str) -> None:
    table = page_of_submodels.split("<h2>The submodels kept</h2>")[1]
    off = sum(3 for point in of_submodels.points for target in TARGETS if target not in point.fronts)
    assert off > 0
    assert len(re.findall(r'<td class="(?:first)? off">', table)) == off


def test_the_trained_granularities_are_marked_and_kept(of_submodels: ReportData, page_of_submodels: str) -> None:
    names = {point.name for point in of_submodels.points if point.is_landmark}
    assert names == set(CONFIG.trained)
    assert page_of_submodels.count('<tr class="landmark">') == len(names)


def test_architectures_are_shown_layer_by_layer_and_have_no_landmarks(
    of_architectures: ReportData, page_of_architectures: str
) -> None:
    assert list(of_architectures.points[0].parts) == ["layers", "d_model", "heads", "d_inner"]
    page = page_of_architectures
    assert "trained granularit" not in page
    for point in of_architectures.points:
        assert f'<td class="text list">{point.parts["d_inner"]}</td>' in page
    smallest = of_architectures.points[-1]  # a seed of the space: two layers of the narrowest kind
    assert smallest.parts["layers"] == "2"


def test_three_or_more_equal_layers_are_written_as_one(of_architectures: ReportData) -> None:
    largest = of_architectures.points[0]  # the other seed: all layers alike
    assert largest.parts["d_inner"] == "4032×15"
    assert largest.parts["heads"] == "8×15"


def test_without_a_measured_loss_there_is_no_loss_and_no_proxy_section(
    of_architectures: ReportData, page_of_architectures: str
) -> None:
    page = page_of_architectures
    assert of_architectures.proxy is None
    assert "perplexity" not in page
    assert "Decoder parameters against the measured loss" not in page
    assert "minus decoder" not in page


def test_a_predicted_loss_is_shown_as_one_and_is_no_truth(tmp_path: Path) -> None:
    search = backbone_search(tmp_path / "search", algorithm="random", evaluations=15, quality="few_shot")
    page = body(render(report_data(search, ARCHITECTURES)))
    assert "<th>predicted loss</th><th>perplexity</th>" in page
    assert "Decoder parameters against the measured loss" not in page


def test_unsteady_latencies_and_slowdowns_are_counted_per_target(
    submodels: SearchSession[Submodel], of_submodels: ReportData
) -> None:
    for target in TARGETS:
        measured = [each.measurements[target] for each in submodels.evaluated.values()]
        unsteady = sum(each.prefill.is_unsteady or each.decode.is_unsteady for each in measured)
        assert of_submodels.steadiness[target].unsteady == unsteady > 0
        worst = max(max(each.prefill.worst_slowdown, each.decode.worst_slowdown) for each in measured)
        assert of_submodels.steadiness[target].worst_slowdown == worst


def test_an_unsteady_latency_is_marked_where_it_is_read(of_submodels: ReportData, page_of_submodels: str) -> None:
    doubtful = sum(len(point.measured[target].unsteady) for point in of_submodels.points for target in TARGETS)
    assert body(page_of_submodels).count(">? ") == doubtful > 0
    assert "Unsteady: every one" not in body(page_of_submodels)


def test_a_report_whose_every_candidate_is_unsteady_begins_with_it(of_submodels: ReportData) -> None:
    all_of_them = Steadiness(unsteady=len(of_submodels.evaluated), worst_slowdown=None)
    page = body(render(replace(of_submodels, steadiness=dict.fromkeys(TARGETS, all_of_them))))
    assert 0 < page.index("Unsteady: every one of the submodels measured on slow, fast") < page.index("evaluated")


def test_failures_are_counted_and_drawn_nowhere(of_submodels: ReportData, page_of_submodels: str) -> None:
    assert of_submodels.failed == 3
    assert len(of_submodels.evaluated) == 57
    assert "<b>3</b>failed" in page_of_submodels


def test_a_search_on_one_target_has_no_joint_front_of_its_own(tmp_path: Path) -> None:
    search = submodel_search(tmp_path / "search", evaluations=20, targets=("only",))
    assert "joint" not in body(render(report_data(search, SUBMODELS)))


def test_the_files_and_the_command_that_opens_the_journal_are_named(page_of_architectures: str) -> None:
    for text in ("evaluations.jsonl", "architectures.json", "optuna-dashboard optuna.journal"):
        assert text in page_of_architectures


def test_what_comes_from_outside_is_escaped(of_submodels: ReportData) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    target = replace(of_submodels.targets[0], name=evil)
    renamed = [
        replace(each, name=evil, description=evil, fronts=(evil,), measured={evil: each.measured["slow"]})
        for each in of_submodels.points
    ]
    data = replace(
        of_submodels,
        space=evil,
        subject={evil: evil},
        targets=(target,),
        points=tuple(renamed),
        evaluated=tuple(renamed),
        curves={evil: tuple(replace(each, name=evil) for each in of_submodels.curves["slow"])},
        steadiness={evil: of_submodels.steadiness["slow"]},
    )
    page = render(data)
    assert "<img" not in body(page)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_report_before_the_first_evaluation_says_that_there_is_none_yet(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="has no evaluation yet"):
        write_report(started(tmp_path / "empty"), SUBMODELS, tmp_path / "report.html")
