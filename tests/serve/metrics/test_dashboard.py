"""The dashboard in the documents, which is kept by hand, against the metrics that a scrape finds."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.engine.fleet_observer import FleetLoad
from serve.engine.observer import Load
from serve.metrics.fleet_metrics import FleetMetrics
from serve.metrics.metrics_table import FLEET_METRICS, METRICS
from serve.metrics.prometheus_metrics import PrometheusMetrics
from tests.conftest import ROOT
from tests.serve.metrics.test_prometheus_metrics import sample_names

DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana" / "lts-ray.json").read_text(encoding="utf-8"))
ALL = (*METRICS, *FLEET_METRICS)
SERIES = re.compile(r"((?:vllm|lts):\w+)(?:\{([^}]*)\})?")


def expressions() -> list[str]:
    """All that Grafana asks Prometheus."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return asked + [each["definition"] for each in DASHBOARD["templating"]["list"] if "definition" in each]


def exported() -> dict[str, list[dict[str, str]]]:
    """Labels of each series of a scrape, by the name of its samples."""
    found: dict[str, list[dict[str, str]]] = {}
    fleet = FleetMetrics(model_name="sotu", kinds=["cpu"])
    for metrics, load in ((PrometheusMetrics(model_name="sotu", submodels=["XL"]), Load()), (fleet, FleetLoad())):
        for family in text_string_to_metric_families(metrics.exposition(load)[0].decode()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_every_query_names_series_that_a_scrape_finds(expression: str) -> None:
    series = SERIES.findall(expression)
    assert series
    for name, selectors in series:
        assert name in exported()
        assert all(label in exported()[name][0] for label in re.findall(r"(\w+)=~?", selectors))
        wanted = dict(re.findall(r'(\w+)="([^"]*)"', selectors))
        assert any(wanted.items() <= labels.items() for labels in exported()[name])
        for label in re.findall(r"by \(([^)]*)\)", expression):
            assert all(each in exported()[name][0] for each in label.split(", "))


def test_a_legend_names_labels_that_its_query_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            kept = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == kept - {"le"}


def test_every_query_is_closed_and_takes_rates_of_counters_and_of_nothing_else() -> None:
    """A rate of a gauge, or a counter without one, is the usual mistake of a dashboard."""
    counted = {name for metric in ALL if metric.kind != "gauge" for name in sample_names(metric)}
    for expression in expressions():
        assert all(expression.count(left) == expression.count(right) for left, right in ("()", "{}", "[]"))
        for name, _ in SERIES.findall(expression):
            assert (f"rate({name}{{" in expression) == (name in counted)


def test_every_metric_is_on_the_dashboard() -> None:
    asked = {name for expression in expressions() for name, _ in SERIES.findall(expression)}
    assert not [metric.name for metric in ALL if not asked & set(sample_names(metric))]


def test_panels_cover_no_other_and_stay_within_the_grid() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    cells = [
        {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        for at in (panel["gridPos"] for panel in panels)
    ]
    assert not any(one & other for one, other in combinations(cells, 2))
    assert all(0 <= x < 24 for cell in cells for x, _ in cell)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_data_source_is_the_one_that_the_reader_picks() -> None:
    sources = re.findall(r'"uid": "(\$\{\w+\})"', json.dumps(DASHBOARD))
    picked = [each["name"] for each in DASHBOARD["templating"]["list"] if each["type"] == "datasource"]
    assert set(sources) == {f"${{{name}}}" for name in picked}
