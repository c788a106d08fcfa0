"""Attainment against quality, a panel for each load: up and to the right is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.load.interval import Mean
from benchmarks.policies_summary import Row
from benchmarks.verdicts import OURS
from lts_ray.report.front_plot import SHOWN_ON_HOVER
from lts_ray.report.style import ACCENT, INK, LINES, styled

COLUMNS = 3
SYMBOLS = ("circle", "square", "triangle-up", "triangle-down", "pentagon", "x", "star", "hexagon")
PANEL_PX, LEGEND_PX = 320, 80


def policies_figure(rows: Sequence[Row]) -> go.Figure:
    """rows: of one mode, over all traces. The loss axis is the same in all panels, and points down."""
    loads = sorted({row.load for row in rows})
    policies = list(dict.fromkeys(row.policy for row in rows))
    lines = ceil(len(loads) / COLUMNS)
    figure = make_subplots(
        rows=lines,
        cols=min(COLUMNS, len(loads)),
        subplot_titles=[f"<b>{load:g}×</b> the universal model's saturation" for load in loads],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.36 / lines if lines > 1 else 0.0,
    )
    for place, load in enumerate(loads):
        at = {"row": place // COLUMNS + 1, "col": place % COLUMNS + 1}
        for row in rows:
            if row.load == load and row.attainment is not None:
                figure.add_trace(_point(row, row.attainment, policies, first=place == 0), **at)
        figure.update_xaxes(title_text="requests with a budget that was kept, %", range=[-4, 104], **at)
    losses = [row.loss.mean for row in rows]
    margin = 0.12 * (max(losses) - min(losses)) or 0.01
    figure.update_yaxes(range=[max(losses) + margin, min(losses) - margin])
    figure.update_yaxes(title_text="loss of what answered, nats per token", col=1)
    figure.update_annotations(font={"size": 13, "color": INK})
    styled(figure, height=PANEL_PX * lines + LEGEND_PX)
    figure.update_layout(margin={"t": LEGEND_PX}, legend={"y": 1 + 40 / (PANEL_PX * lines)})
    return figure


def _point(row: Row, attainment: Mean, policies: Sequence[str], *, first: bool) -> go.Scatter:
    which = policies.index(row.policy)
    color = ACCENT if row.policy == OURS else LINES[1:][which % (len(LINES) - 1)]
    return go.Scatter(
        x=[100 * attainment.mean],
        y=[row.loss.mean],
        error_x=_error(attainment, color, scale=100),
        error_y=_error(row.loss, color),
        mode="markers",
        name=row.policy,
        legendgroup=row.policy,
        showlegend=first,
        marker={
            "color": color,
            "symbol": "diamond" if row.policy == OURS else SYMBOLS[which % len(SYMBOLS)],
            "size": 13 if row.policy == OURS else 9,
            "line": {"color": "white", "width": 1},
        },
        hovertext=[_hover(row, attainment)],
        hovertemplate=SHOWN_ON_HOVER,
    )


def _error(mean: Mean, color: str, *, scale: float = 1.0) -> Mapping[str, Any] | None:
    if mean.high is None:
        return None
    return {"array": [scale * (mean.high - mean.mean)], "color": color, "thickness": 1.2, "width": 3}


def _hover(row: Row, attainment: Mean) -> str:
    lines = [
        f"<b>{row.policy}</b> at {row.load:g}×",
        f"budgets kept {attainment.text(scale=100)} %",
        *(f"  {kind} {each.text(scale=100)} %" for kind, each in row.by_kind.items() if each is not None),
        f"loss {row.loss.text(decimals=4)}",
        f"goodput {row.goodput_requests_s.text(decimals=2)} requests/s",
        f"rejected {row.rejected.text(scale=100)} %",
    ]
    if row.universal_share is not None:
        lines.insert(-2, f"universal tokens {row.universal_share.text(scale=100)} %")
    return "<br>".join(lines)
