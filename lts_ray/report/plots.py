"""The report's figures: what a submodel's quality costs on one target, and how the search went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lts_ray.frontier import Point
from lts_ray.report.data import Evaluated, ReportData
from lts_ray.search.pareto import non_dominated

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, GRID, ACCENT = "#1f2933", "#9aa5b1", "#e4e7eb", "#1d6fa5"
LINES = ("#1d6fa5", "#d9822b", "#3d9a5f", "#8f5bb5", "#c23b3b")
MEMORY_SCALE = ((0.0, "#f2c14e"), (0.5, "#d1495b"), (1.0, "#2e1f5e"))
Axis = Literal["prefill_ms", "decode_ms"]
AXES: dict[Axis, str] = {"prefill_ms": "prefill latency, ms", "decode_ms": "decode latency, ms per token"}


def loss_title(data: ReportData) -> str:
    return "validation loss, nats per token" if data.quality == "validation_loss" else "minus decoder parameters"


def front_figure(data: ReportData, target: str) -> go.Figure:
    """Loss against both latencies on one target; colour is memory."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.035)
    front = data.frontier.front(target)
    memories = [point.costs[target].peak_memory_mb for point in front]
    for column, axis in enumerate(AXES, start=1):
        first = column == 1
        figure.add_trace(_evaluated_trace(data, target, axis, legend=first), row=1, col=column)
        figure.add_trace(_joined_trace(front, target, axis), row=1, col=column)
        figure.add_trace(_front_trace(data, front, target, axis, memories, legend=first), row=1, col=column)
        figure.add_trace(_granularity_trace(data, target, axis, legend=first), row=1, col=column)
        figure.update_xaxes(title_text=AXES[axis], rangemode="normal", row=1, col=column)
    figure.update_yaxes(title_text=loss_title(data), row=1, col=1)
    return _styled(figure, height=430)


def hypervolume_figure(data: ReportData) -> go.Figure:
    figure = go.Figure()
    for index, (target, values) in enumerate(data.hypervolumes.items()):
        figure.add_trace(
            go.Scatter(
                x=list(range(1, len(values) + 1)),
                y=list(values),
                name=target,
                mode="lines",
                line={"color": LINES[index % len(LINES)], "width": 2, "shape": "hv"},
                hovertemplate="after %{x} evaluations: %{y:.4f}<extra>" + target + "</extra>",
            )
        )
    figure.update_xaxes(title_text="evaluations")
    figure.update_yaxes(title_text="hypervolume")
    return _styled(figure, height=300)


def _evaluated_trace(data: ReportData, target: str, axis: Axis, *, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=[getattr(each.costs[target], axis) for each in data.evaluated],
        y=[each.loss for each in data.evaluated],
        mode="markers",
        name="evaluated",
        legendgroup="evaluated",
        showlegend=legend,
        marker={"color": MUTED, "size": 6, "opacity": 0.45},
        text=[_hover(data, each, target) for each in data.evaluated],
        hovertemplate="%{text}<extra></extra>",
    )


def _joined_trace(front: Sequence[Point], target: str, axis: Axis) -> go.Scatter:
    """Joins those front points that also lead in this plot's two dimensions: the others are there for their memory."""
    pairs = [(point.loss, getattr(point.costs[target], axis)) for point in front]
    leading = sorted(pairs[index] for index in non_dominated(pairs))
    return go.Scatter(
        x=[latency for _, latency in leading],
        y=[loss for loss, _ in leading],
        mode="lines",
        line={"color": ACCENT, "width": 1.5},
        showlegend=False,
        hoverinfo="skip",
    )


def _front_trace(
    data: ReportData, front: Sequence[Point], target: str, axis: Axis, memories: Sequence[float], *, legend: bool
) -> go.Scatter:
    return go.Scatter(
        x=[getattr(point.costs[target], axis) for point in front],
        y=[point.loss for point in front],
        mode="markers",
        name="front",
        legendgroup="front",
        showlegend=legend,
        marker={
            "color": list(memories),
            "colorscale": MEMORY_SCALE,
            "size": 9,
            "line": {"color": "white", "width": 1},
            "showscale": legend,
            "colorbar": {"title": {"text": "memory, MB", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        },
        text=[_hover(data, point, target) for point in front],
        hovertemplate="%{text}<extra></extra>",
    )


def _granularity_trace(data: ReportData, target: str, axis: Axis, *, legend: bool) -> go.Scatter:
    trained = [each for each in data.evaluated if each.submodel in data.granularities]
    return go.Scatter(
        x=[getattr(each.costs[target], axis) for each in trained],
        y=[each.loss for each in trained],
        mode="markers+text",
        name="trained granularity",
        legendgroup="granularity",
        showlegend=legend,
        text=[f"<b>{data.granularities[each.submodel]}</b>" for each in trained],
        textposition="top right",
        textfont={"size": 13, "color": INK},
        marker={"symbol": "diamond-open", "size": 14, "color": INK, "line": {"width": 1.8}},
        hoverinfo="skip",
    )


def _hover(data: ReportData, each: Evaluated | Point, target: str) -> str:
    cost = each.costs[target]
    name = f"<b>{each.name}</b><br>" if isinstance(each, Point) else ""
    loss = f"loss {each.loss:.4f}<br>" if data.quality == "validation_loss" else ""
    return (
        f"{name}widths {', '.join(map(str, each.submodel.widths))}<br>{loss}"
        f"{each.decoder_params:,} decoder parameters<br>"
        f"prefill {cost.prefill_ms:.2f} ms · decode {cost.decode_ms:.3f} ms<br>memory {cost.peak_memory_mb:.1f} MB"
    )


def _styled(figure: go.Figure, *, height: int) -> Any:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 36, "b": 52},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"bgcolor": "white", "bordercolor": GRID, "font": {"family": FONT, "size": 12, "color": INK}},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=MUTED, ticks="outside", tickcolor=MUTED)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=MUTED, ticks="outside", tickcolor=MUTED)
    return figure
