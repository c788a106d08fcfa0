"""Decoder parameters against the loss that was measured."""

from __future__ import annotations

import plotly.graph_objects as go

from lts_ray.report.hover_text import hover_text
from lts_ray.report.report_data import ReportData, Shown
from lts_ray.report.style import ACCENT, MUTED, SHOWN_ON_HOVER, styled


def proxy_figure(data: ReportData) -> go.Figure:
    """Marked: what is on the front of any target."""
    figure = go.Figure()
    rest = [candidate for candidate in data.most_precise if not candidate.fronts]
    front = [candidate for candidate in data.most_precise if candidate.fronts]
    figure.add_trace(_trace(data, rest, name="evaluated", marker={"color": MUTED, "size": 6, "opacity": 0.5}))
    marker = {"color": ACCENT, "size": 9, "line": {"color": "white", "width": 1}}
    figure.add_trace(_trace(data, front, name="on a front", marker=marker))
    figure.update_xaxes(title_text="decoder parameters, millions")
    figure.update_yaxes(title_text=data.scale.title)
    return styled(figure, height=400)


def _trace(data: ReportData, shown: list[Shown], *, name: str, marker: dict[str, object]) -> go.Scatter:
    return go.Scatter(
        x=[candidate.decoder_params / 1e6 for candidate in shown],
        y=[candidate.loss for candidate in shown],
        mode="markers",
        name=name,
        marker=marker,
        hovertext=[hover_text(data, candidate) for candidate in shown],
        hovertemplate=SHOWN_ON_HOVER,
    )
