"""A target's front in two dimensions: quality against the latencies there are, memory as colour."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lts_ray.pareto import non_dominated
from lts_ray.report.hover_text import hover_text
from lts_ray.report.report_data import ReportData, Shown
from lts_ray.report.style import ACCENT, INK, MEMORY_SCALE, MUTED, SHOWN_ON_HOVER, styled

Axis = Literal["prefill_ms", "decode_ms"]
AXES: dict[Axis, str] = {"prefill_ms": "prefill latency, ms", "decode_ms": "decode latency, ms per token"}


def front_figure(data: ReportData, target: str) -> go.Figure:
    axes: list[Axis] = [axis for axis in AXES if axis == "prefill_ms" or data.can_decode]
    figure = make_subplots(rows=1, cols=len(axes), shared_yaxes=True, horizontal_spacing=0.035)
    front = data.front(target)
    for column, axis in enumerate(axes, start=1):
        first = column == 1
        figure.add_trace(_evaluated_trace(data, target, axis, legend=first), row=1, col=column)
        figure.add_trace(_joined_trace(data, front, target, axis), row=1, col=column)
        figure.add_trace(_front_trace(data, front, target, axis, legend=first), row=1, col=column)
        if any(candidate.is_landmark for candidate in data.evaluated):
            figure.add_trace(_landmark_trace(data, target, axis, legend=first), row=1, col=column)
        figure.update_xaxes(title_text=AXES[axis], row=1, col=column)
    figure.update_yaxes(title_text=data.scale.title, row=1, col=1)
    return styled(figure, height=430)


def _latency(candidate: Shown, target: str, axis: Axis) -> float:
    return float(getattr(candidate.measured[target].cost, axis))


def _evaluated_trace(data: ReportData, target: str, axis: Axis, *, legend: bool) -> go.Scatter:
    rest = [candidate for candidate in data.evaluated if target not in candidate.fronts]
    return go.Scatter(
        x=[_latency(candidate, target, axis) for candidate in rest],
        y=[data.scale.value(candidate) for candidate in rest],
        mode="markers",
        name="evaluated",
        legendgroup="evaluated",
        showlegend=legend,
        marker={"color": MUTED, "size": 6, "opacity": 0.45},
        hovertext=[hover_text(data, candidate, target) for candidate in rest],
        hovertemplate=SHOWN_ON_HOVER,
    )


def _joined_trace(data: ReportData, front: Sequence[Shown], target: str, axis: Axis) -> go.Scatter:
    """Joins those front points that also lead in this plot's two dimensions: the others are there for what is not."""
    pairs = [(data.scale.minimised(candidate), _latency(candidate, target, axis)) for candidate in front]
    leading = sorted(
        (front[index] for index in non_dominated(pairs)), key=lambda candidate: _latency(candidate, target, axis)
    )
    return go.Scatter(
        x=[_latency(candidate, target, axis) for candidate in leading],
        y=[data.scale.value(candidate) for candidate in leading],
        mode="lines",
        line={"color": ACCENT, "width": 1.5},
        showlegend=False,
        hoverinfo="skip",
    )


def _front_trace(data: ReportData, front: Sequence[Shown], target: str, axis: Axis, *, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=[_latency(candidate, target, axis) for candidate in front],
        y=[data.scale.value(candidate) for candidate in front],
        mode="markers",
        name="front",
        legendgroup="front",
        showlegend=legend,
        marker={
            "color": [candidate.measured[target].cost.peak_memory_mb for candidate in front],
            "colorscale": MEMORY_SCALE,
            "size": 9,
            "line": {"color": "white", "width": 1},
            "showscale": legend,
            "colorbar": {
                "title": {"text": "memory, MB", "side": "right", "font": {"size": 13}},
                "thickness": 12,
                "outlinewidth": 0,
            },
        },
        hovertext=[hover_text(data, candidate, target) for candidate in front],
        hovertemplate=SHOWN_ON_HOVER,
    )


def _landmark_trace(data: ReportData, target: str, axis: Axis, *, legend: bool) -> go.Scatter:
    landmarks = [candidate for candidate in data.evaluated if candidate.is_landmark]
    return go.Scatter(
        x=[_latency(candidate, target, axis) for candidate in landmarks],
        y=[data.scale.value(candidate) for candidate in landmarks],
        mode="markers+text",
        name="trained granularity",
        legendgroup="landmark",
        showlegend=legend,
        text=[f"<b>{html.escape(candidate.name or '')}</b>" for candidate in landmarks],
        textposition="bottom left" if data.scale.is_loss else "top left",  # where nothing can lie
        textfont={"size": 13, "color": INK},
        marker={"symbol": "diamond-open", "size": 14, "color": INK, "line": {"width": 1.8}},
        hoverinfo="skip",
    )
