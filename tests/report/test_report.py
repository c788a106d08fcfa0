from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.measurement.fake import FakeEvaluator
from lts_ray.report.data import report_data
from lts_ray.report.html import render, write_report
from lts_ray.search.drive import drive
from lts_ray.search.session import SearchSession
from tests.search.helpers import CONFIG, TARGETS, session


@pytest.fixture
def searched(tmp_path: Path) -> SearchSession:
    search = session(tmp_path)
    drive(search, FakeEvaluator(TARGETS, failing={CONFIG.trained["M"]}))
    return search


def test_the_report_is_one_file_that_fetches_nothing(searched: SearchSession, tmp_path: Path) -> None:
    write_report(searched, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]*\s(?:src|href)=", page)
    assert page.count("<script>/**\n* plotly.js v") == 1


def test_the_report_has_every_point_of_the_frontier(searched: SearchSession) -> None:
    page = render(report_data(searched))
    table = page[page.index("<h2>The frontier</h2>") :]
    for point in searched.frontier().points:
        assert f'<td class="text">{point.name}</td>' in table
        assert " · ".join(map(str, point.submodel.widths)) in table
        assert f"{point.decoder_params:,}" in table
    assert "59 submodels" in page
    assert "1 more failed" in page
    assert "5.0 %" in page  # the step-cost models' error


def test_hypervolume_has_one_value_per_evaluated_candidate(searched: SearchSession) -> None:
    data = report_data(searched)
    assert {len(values) for values in data.hypervolumes.values()} == {len(data.evaluated)} == {59}


def test_what_comes_from_outside_is_escaped(searched: SearchSession) -> None:
    page = render(replace(report_data(searched), space="<img src=x>"))
    assert "&lt;img src=x&gt;" in page
    assert "<img src=x>" not in page


def test_nothing_evaluated_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match="every evaluation failed"):
        write_report(session(tmp_path / "empty"), tmp_path / "report.html")
