"""Hypervolume over evaluations on one target, a line for each search."""

from __future__ import annotations

import html

import plotly.graph_objects as go

from lts_ray.report.report_data import ReportData
from lts_ray.report.style import LINES, styled


def curve_figure(data: ReportData, target: str) -> go.Figure:
    """Searches by one algorithm share its colour; this report's own search is the thick line."""
    curves = data.curves[target]
    colours = {name: LINES[i % len(LINES)] for i, name in enumerate(dict.fromkeys(curve.algorithm for curve in curves))}
    figure = go.Figure()
    for curve in sorted(curves, key=lambda curve: curve.is_this):  # the last one lies on top
        name = html.escape(curve.name)
        figure.add_trace(
            go.Scatter(
                x=list(range(1, len(curve.values) + 1)),
                y=list(curve.values),
                name=f"<b>{name}</b>" if curve.is_this else name,
                legendrank=1 if curve.is_this else 2,
                mode="lines",
                line={"color": colours[curve.algorithm], "width": 3 if curve.is_this else 1.6, "shape": "hv"},
                hovertemplate="after %{x} evaluations: %{y:.4f}<extra>" + name + "</extra>",
            )
        )
    figure.update_xaxes(title_text="evaluations")
    figure.update_yaxes(title_text="hypervolume")
    styled(figure, height=430)
    figure.update_layout(showlegend=True)
    return figure
