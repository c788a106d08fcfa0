"""A target's front: quality against a latency, with memory as colour; and turned with the mouse, in the
three dimensions that it is a front of."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lts_ray.pareto import non_dominated
from lts_ray.report.hover_text import hover_text
from lts_ray.report.report_data import ReportData, Shown
from lts_ray.report.style import ACCENT, FONT, GRID, HOVER, INK, LEGEND, MEMORY_SCALE, MUTED, SHOWN_ON_HOVER, styled
from lts_ray.search.algorithms.search_settings import LatencyName

AXES: dict[LatencyName, str] = {"prefill_ms": "prefill latency, ms", "decode_ms": "decode latency, ms per token"}
LEFT, RIGHT = 0.16, 0.07
"""Of what the latencies span, empty beside them: the names of trained granularities stand to the left."""
SYMBOLS = {"": "circle", "float32": "circle", "bfloat16": "cross", "int8": "square", "int4": "x"}
"""By precision; in two dimensions and in three there are these."""
EYE = {"x": 1.45, "y": -1.6, "z": 0.7}
"""From the side: latency and memory grow together, so that the front runs from left to right."""


def front_figure(data: ReportData, target: str, axis: LatencyName) -> go.Figure:
    """Quality against one latency. A phone has no room for both latencies side by side."""
    figure = go.Figure()
    front, rest, landmarks = data.front(target), _off_front(data, target), _landmarks(data)
    bar = {"title": {"text": "memory, MB", "side": "right", "font": {"size": 13}}, "thickness": 12, "outlinewidth": 0}
    off_front = {
        **_hover(data, rest, target, "evaluated"),
        "marker": {"color": MUTED, "size": 6, "opacity": 0.45, "symbol": _symbols(rest)},
    }
    on_front = {
        **_hover(data, front, target, "front"),
        "marker": {**_by_memory(front, target, size=9, edge=1), "showscale": True, "colorbar": bar},
    }
    lines = {"mode": "lines", "line": {"color": ACCENT, "width": 1.5}, "hoverinfo": "skip"}
    figure.add_traces(
        [
            _flat(data, rest, target, axis, **off_front),
            _flat(data, _leading(data, target, axis), target, axis, showlegend=False, **lines),
            _flat(data, front, target, axis, **on_front),
        ]
    )
    if landmarks:
        figure.add_trace(
            _flat(
                data,
                landmarks,
                target,
                axis,
                **_names(data, landmarks),
                textposition="bottom left" if data.scale.is_loss else "top left",  # where nothing can lie
                textfont={"size": 13, "color": INK},
                marker={"symbol": "diamond-open", "size": 14, "color": INK, "line": {"width": 1.8}},
                hoverinfo="skip",
            )
        )
    for precision in data.precisions if len(data.precisions) > 1 else ():  # in the legend alone
        marker = {"symbol": SYMBOLS[precision], "size": 9, "color": MUTED}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=precision, marker=marker))
    latencies = [_latency(candidate, target, axis) for candidate in data.evaluated]
    span = max(latencies) - min(latencies) or max(latencies)
    figure.update_xaxes(title_text=AXES[axis], range=[min(latencies) - LEFT * span, max(latencies) + RIGHT * span])
    figure.update_yaxes(title_text=data.scale.title)
    return styled(figure, height=430)


def front_figure_3d(data: ReportData, target: str) -> go.Figure:
    """Its latency is decode where both are objectives: a response has one prefill and many decode steps."""
    is_prefill = data.settings.latency == "prefill"
    axis: LatencyName = "prefill_ms" if is_prefill else "decode_ms"
    front, rest, landmarks = data.front(target), _off_front(data, target), _landmarks(data)
    labels = {
        **_names(data, landmarks),
        "textposition": "top center",
        "textfont": {"size": 13, "color": INK, "family": FONT},
    }
    drawn: list[tuple[Sequence[Shown], str, dict[str, Any]]] = [
        (rest, "evaluated", {"marker": {"color": MUTED, "size": 2.5, "opacity": 0.5, "symbol": _symbols(rest)}}),
        (front, "front", {"marker": _by_memory(front, target, size=5, edge=0.5)}),
    ]
    if landmarks:
        marker = {"symbol": "diamond-open", "color": INK, "size": 8}
        drawn.append((landmarks, "trained granularity", {**labels, "marker": marker}))
    figure = go.Figure()
    for shown, name, looks in drawn:
        figure.add_trace(
            go.Scatter3d(
                x=[_latency(candidate, target, axis) for candidate in shown],
                y=[candidate.measured[target].cost.peak_memory_mb for candidate in shown],
                z=[data.value(candidate) for candidate in shown],
                **{"mode": "markers", **_hover(data, shown, target, name), **looks},
            )
        )
    figure.update_layout(
        height=430,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        font={"family": FONT, "size": 12, "color": INK},
        paper_bgcolor="rgba(0, 0, 0, 0)",
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


def _off_front(data: ReportData, target: str) -> list[Shown]:
    return [candidate for candidate in data.evaluated if target not in candidate.fronts]


def _landmarks(data: ReportData) -> list[Shown]:
    return [candidate for candidate in data.evaluated if candidate.is_landmark]


def _leading(data: ReportData, target: str, axis: LatencyName) -> list[Shown]:
    """Those front points that also lead in this plot's two dimensions: the others are there for what is not."""
    front, sign = data.front(target), 1 if data.scale.is_loss else -1
    pairs = [(sign * data.value(candidate), _latency(candidate, target, axis)) for candidate in front]
    return sorted(
        (front[index] for index in non_dominated(pairs)), key=lambda candidate: _latency(candidate, target, axis)
    )


def _latency(candidate: Shown, target: str, axis: LatencyName) -> float:
    return float(getattr(candidate.measured[target].cost, axis))


def _flat(data: ReportData, shown: Sequence[Shown], target: str, axis: LatencyName, **looks: Any) -> go.Scatter:
    x = [_latency(candidate, target, axis) for candidate in shown]
    return go.Scatter(x=x, y=[data.value(candidate) for candidate in shown], **{"mode": "markers", **looks})


def _hover(data: ReportData, shown: Sequence[Shown], target: str, name: str) -> dict[str, Any]:
    texts = [hover_text(data, candidate, target) for candidate in shown]
    return {"name": name, "hovertext": texts, "hovertemplate": SHOWN_ON_HOVER}


def _by_memory(shown: Sequence[Shown], target: str, *, size: float, edge: float) -> dict[str, Any]:
    return {
        "color": [candidate.measured[target].cost.peak_memory_mb for candidate in shown],
        "colorscale": MEMORY_SCALE,
        "size": size,
        "symbol": _symbols(shown),
        "line": {"color": "white", "width": edge},
    }


def _symbols(shown: Sequence[Shown]) -> list[str]:
    return [SYMBOLS[candidate.precision] for candidate in shown]


def _names(data: ReportData, landmarks: Sequence[Shown]) -> dict[str, Any]:
    """Once each, in the most precise of several precisions: beside one another they would hide each other."""
    texts = [
        f"<b>{html.escape(candidate.name or '')}</b>" if candidate.precision in ("", *data.precisions[:1]) else ""
        for candidate in landmarks
    ]
    return {"mode": "markers+text", "name": "trained granularity", "text": texts}


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
