"""A target's front in the three dimensions it is a front of: quality, latency and memory. Turned with the mouse."""

from __future__ import annotations

import html

import plotly.graph_objects as go

from lts_ray.report.front_plot import Axis
from lts_ray.report.hover_text import hover_text
from lts_ray.report.report_data import ReportData, Shown
from lts_ray.report.style import FONT, GRID, HOVER, INK, LEGEND, MEMORY_SCALE, MUTED, SHOWN_ON_HOVER

EYE = {"x": 1.45, "y": -1.6, "z": 0.7}
"""From the side: latency and memory grow together, so that the front runs from left to right."""


def latency_axis(data: ReportData) -> Axis:
    """Decode where both are objectives: a response has one prefill and many decode steps."""
    return "prefill_ms" if data.latency == "prefill" else "decode_ms"


def front_figure_3d(data: ReportData, target: str) -> go.Figure:
    figure = go.Figure()
    front = data.front(target)
    rest = [candidate for candidate in data.evaluated if target not in candidate.fronts]
    landmarks = [candidate for candidate in data.evaluated if candidate.is_landmark]
    figure.add_trace(_trace(data, target, rest, name="evaluated", marker={"color": MUTED, "size": 2.5, "opacity": 0.5}))
    figure.add_trace(
        _trace(
            data,
            target,
            list(front),
            name="front",
            marker={
                "color": [candidate.measured[target].cost.peak_memory_mb for candidate in front],
                "colorscale": MEMORY_SCALE,
                "size": 5,
                "line": {"color": "white", "width": 0.5},
            },
        )
    )
    if landmarks:
        marker = {"symbol": "diamond-open", "color": INK, "size": 8}
        trace = _trace(data, target, landmarks, name="trained granularity", marker=marker)
        trace.update(
            mode="markers+text",
            text=[f"<b>{html.escape(candidate.name or '')}</b>" for candidate in landmarks],
            textposition="top center",
            textfont={"size": 13, "color": INK, "family": FONT},
        )
        figure.add_trace(trace)
    is_prefill = latency_axis(data) == "prefill_ms"
    figure.update_layout(
        height=430,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        font={"family": FONT, "size": 12, "color": INK},
        paper_bgcolor="white",
        legend={**LEGEND, "itemsizing": "constant"},
        hoverlabel=HOVER,
        scene={
            "xaxis": _axis("prefill, ms" if is_prefill else "decode, ms"),
            "yaxis": _axis("memory, MB"),
            "zaxis": _axis(data.scale.short),
            "aspectmode": "manual",
            "aspectratio": {"x": 1.15, "y": 1.15, "z": 0.85},
            "camera": {"eye": EYE, "center": {"x": 0, "y": 0, "z": -0.18}},
            "dragmode": "turntable",
        },
    )
    return figure


def _trace(data: ReportData, target: str, shown: list[Shown], *, name: str, marker: dict[str, object]) -> go.Scatter3d:
    axis = latency_axis(data)
    return go.Scatter3d(
        x=[getattr(candidate.measured[target].cost, axis) for candidate in shown],
        y=[candidate.measured[target].cost.peak_memory_mb for candidate in shown],
        z=[data.scale.value(candidate) for candidate in shown],
        mode="markers",
        name=name,
        marker=marker,
        hovertext=[hover_text(data, candidate, target) for candidate in shown],
        hovertemplate=SHOWN_ON_HOVER,
    )


def _axis(title: str) -> dict[str, object]:
    return {
        "title": {"text": title, "font": {"size": 12}},
        "tickfont": {"size": 10.5},
        "nticks": 6,
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "showbackground": False,
        "showspikes": False,
    }
