"""report.html: what a search found, for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lts_ray.files import write_text
from lts_ray.measurement.latency import UNSTEADY_MEANS
from lts_ray.report.curve_plot import curve_figure
from lts_ray.report.front_plot import front_figure, front_figure_3d
from lts_ray.report.optuna_journal import JOURNAL
from lts_ray.report.page import FLAT, figure_html, page_html
from lts_ray.report.proxy_plot import proxy_figure
from lts_ray.report.quality_scale import perplexity_text
from lts_ray.report.report_data import ReportData, Shown, report_data
from lts_ray.report.search_template import BODY
from lts_ray.search.algorithms.search_settings import LatencyName
from lts_ray.search.search_log import LOG
from lts_ray.search.search_results import Results
from lts_ray.search.search_session import SearchSession
from lts_ray.spaces.search_space import Candidate
from lts_ray.target import Target

REPORT = "report.html"
TURNED: Mapping[str, Any] = {
    **FLAT,
    "displayModeBar": "hover",
    "displaylogo": False,
    "scrollZoom": False,  # the wheel is for the page; the buttons zoom, and turn the view back
    "modeBarButtons": [["zoom3d", "pan3d", "tableRotation", "resetCameraDefault3d"]],
}


def write_report(
    session: SearchSession[Candidate],
    results: Results[Candidate],
    path: Path,
    *,
    others: Mapping[str, SearchSession[Candidate]] | None = None,
) -> None:
    """others: searches of the same to compare with (see `report_data`).

    Raises LtsRayError when the search has evaluated nothing yet.
    """
    write_text(path, render(report_data(session, results, others)))


def render(data: ReportData) -> str:
    names = [target.name for target in data.targets]
    axes: tuple[LatencyName, ...] = ("prefill_ms", "decode_ms") if data.can_decode else ("prefill_ms",)
    return page_html(
        BODY,
        title="lts-ray search report",
        data=data,
        fronts=[
            [figure_html(front_figure(data, name, axis), f"front-{i}-{axis}") for axis in axes]
            for i, name in enumerate(names)
        ],
        scenes=[figure_html(front_figure_3d(data, name), f"scene-{i}", TURNED) for i, name in enumerate(names)],
        curves=[figure_html(curve_figure(data, name), f"curve-{i}") for i, name in enumerate(names)],
        proxy=figure_html(proxy_figure(data), "proxy") if data.proxy is not None else None,
        agreement=_agreement(data),
        findings=[_finding(data, target) for target in data.targets],
        parts=list(data.points[0].parts),
        rows=_rows(data),
        dimensions=f"{data.scale.word}, {_latencies(data)} and memory",
        doubtful=[name for name in names if data.steadiness[name].unsteady == len(data.evaluated)],
        unsteady_means=UNSTEADY_MEANS,
        log=LOG,
        journal=JOURNAL,
    )


def _latencies(data: ReportData) -> str:
    latency = data.settings.latency
    return "both latencies" if latency == "both" else f"{latency} latency"


def _finding(data: ReportData, target: Target) -> dict[str, Any]:
    """One target in numbers: its front, what that spans, and how far to trust it."""
    name = target.name
    costs = [point.measured[name].cost for point in data.front(name)]
    steadiness, ran_in = data.steadiness[name], {each.measured[name].ran_in for each in data.evaluated}
    numbers = "/".join(data.precisions) or target.dtype
    labels = ", ".join(f"{key}: {value}" for key, value in target.label_selector.items())
    spans = {}
    for cost in _costs(data):
        values = [getattr(of_point, cost) for of_point in costs]
        decimals = _decimals(
            [getattr(measured.cost, cost) for point in data.points for measured in point.measured.values()]
        )
        spans[cost] = f"{min(values):,.{decimals}f} – {max(values):,.{decimals}f}" if values else "–"
    return {
        "name": name,
        "where": "the driver's node" if target.local else labels,
        "setup": f"{target.threads} thread{'s' if target.threads > 1 else ''}, {target.device}, {numbers}, "
        f"batch {target.batch_size} × {target.sequence_length} tokens, in {' and '.join(sorted(ran_in))}",
        "points": len(costs),
        "spans": spans,
        "hypervolume": f"{data.curves[name][0].values[-1]:.3f}",
        "unsteady": f"{steadiness.unsteady} of {len(data.evaluated)}",
        "slowdown": "–" if steadiness.worst_slowdown is None else f"{steadiness.worst_slowdown:.2f} ×",
    }


def _agreement(data: ReportData) -> list[tuple[str, str, str]]:
    """Rows of name, value and what it says."""
    proxy = data.proxy
    if proxy is None:
        return []
    rows = [("Spearman's rank correlation", f"{proxy.spearman:.3f}", "1: the same order")]
    rows += [
        (f"common ratio, best {percent} %", f"{100 * ratio:.0f} %", "of the best by parameters are the best by loss")
        for percent, ratio in proxy.common_ratios.items()
    ]
    for target, distances in proxy.distances.items():
        rows += [
            (f"d_avg on {target}, {latency}", f"{100 * distance:.2f} %", "perplexity given up by the proxy's front")
            for latency, distance in distances.items()
        ]
    return rows


def _rows(data: ReportData) -> list[dict[str, Any]]:
    names, costs = [target.name for target in data.targets], _costs(data)
    decimals = {
        (name, cost): _decimals([getattr(point.measured[name].cost, cost) for point in data.points])
        for name in names
        for cost in costs
    }

    def row(point: Shown) -> dict[str, Any]:
        return {
            "point": point,
            "loss": f"{point.loss:.4f}",
            "perplexity": perplexity_text(point.loss),
            "costs": [
                {
                    "text": f"{getattr(point.measured[name].cost, cost):,.{decimals[name, cost]}f}",
                    "unsteady": cost.removesuffix("_ms") in point.measured[name].unsteady,
                    "on_front": name in point.fronts,
                    "first": cost == costs[0],
                }
                for name in names
                for cost in costs
            ],
        }

    return [row(point) for point in data.points]


def _costs(data: ReportData) -> tuple[str, ...]:
    """Columns."""
    return ("prefill_ms", *(("decode_ms",) if data.can_decode else ()), "peak_memory_mb")


def _decimals(values: Sequence[float]) -> int:
    """As many as leave the largest about four digits: a column's numbers share them, so that they align."""
    largest = max(values, default=0.0)
    return next((count for bound, count in ((1000, 0), (100, 1), (10, 2)) if largest >= bound), 3)
