"""report.html: one self-contained file, for a person. plotly.js is inside, once; nothing is fetched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lts_ray.files import write_text
from lts_ray.frontier import Point
from lts_ray.report.data import ReportData, report_data
from lts_ray.report.plots import front_figure, hypervolume_figure
from lts_ray.report.template import TEMPLATE
from lts_ray.search.session import SearchSession


def write_report(session: SearchSession, path: Path) -> None:
    """Raises LtsRayError when the search has evaluated nothing yet."""
    write_text(path, render(report_data(session)))


def render(data: ReportData) -> str:
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    return template.render(
        data=data,
        plotly=Markup(get_plotlyjs()),  # plotly's own script, not user input
        fronts={name: Markup(_figure(front_figure(data, name))) for name in data.frontier.targets},
        hypervolume=Markup(_figure(hypervolume_figure(data))),
        rows=[_row(data, point) for point in data.frontier.points],
        findings=[_finding(data, name) for name in data.frontier.targets],
    )


def _figure(figure: Any) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False}))


def _row(data: ReportData, point: Point) -> dict[str, Any]:
    has_loss = data.quality == "validation_loss"
    return {
        "point": point,
        "trained": point.submodel in data.granularities,
        "loss": f"{point.loss:.4f}" if has_loss else "–",
        "perplexity": f"{math.exp(point.loss):.2f}" if has_loss and point.loss < 50 else "–",
        "costs": [
            {
                "prefill": f"{point.costs[name].prefill_ms:.2f}",
                "decode": f"{point.costs[name].decode_ms:.3f}",
                "memory": f"{point.costs[name].peak_memory_mb:.1f}",
                "on_front": name in point.fronts,
            }
            for name in data.frontier.targets
        ],
    }


def _finding(data: ReportData, name: str) -> dict[str, Any]:
    """One target in numbers: its front, its span of latencies, and how well its step-cost model fits."""
    entry = data.frontier.targets[name]
    front = data.frontier.front(name)
    decodes = [point.costs[name].decode_ms for point in front]
    prefills = [point.costs[name].prefill_ms for point in front]
    target = entry.target
    return {
        "name": name,
        "where": "the driver's node"
        if target.local
        else ", ".join(f"{key}: {value}" for key, value in target.label_selector.items()),
        "setup": f"{target.threads} thread{'s' if target.threads > 1 else ''}, {target.device}, {target.dtype}, "
        f"batch {target.batch_size} × {target.sequence_length} tokens",
        "points": len(front),
        "prefill": f"{min(prefills):.2f} – {max(prefills):.2f}" if front else "–",
        "decode": f"{min(decodes):.3f} – {max(decodes):.3f}" if front else "–",
        "hypervolume": f"{data.hypervolumes[name][-1]:.3f}",
        "unsteady": f"{data.unsteady[name]} of {len(data.evaluated)}",
        "error": f"{100 * entry.step_cost.relative_error:.1f} %",
    }
