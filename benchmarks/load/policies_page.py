"""What `python -m benchmarks.policies` shows of its rows: tables, and attainment against quality, a panel a load.

In the figures up and to the right is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.common.result_page import Section
from benchmarks.load.policies_folder import Mode, PolicySetup
from benchmarks.load.policy_rows import Mean, PolicyRow
from lts_ray.report.style import ACCENT, INK, LINES, SHOWN_ON_HOVER, styled

OURS = "deadline"
"""The policy that the figures bring out."""
COLUMNS = 3
SYMBOLS = ("circle", "square", "triangle-up", "triangle-down", "pentagon", "x", "star", "hexagon")
PANEL_PX, LEGEND_PX = 320, 80
HEADINGS: Mapping[Mode, str] = {
    "engine": "The engine, in real time",
    "simulated": "Simulated, with this node's step costs",
}


def policy_sections(rows: Sequence[PolicyRow]) -> list[Section]:
    """One for each mode. rows: over all traces."""
    return [
        _section(mode, [row for row in rows if row.mode == mode]) for mode in dict.fromkeys(row.mode for row in rows)
    ]


def _section(mode: Mode, rows: Sequence[PolicyRow]) -> Section:
    tables = {}
    for load in sorted({row.load for row in rows}):
        at, shown = f"{mode}, {load:g}× the universal model's saturation", [row for row in rows if row.load == load]
        tables[at] = [row.text_columns() for row in shown]
        tables[f"{at}: more"] = [row.more_text_columns() for row in shown]
    return Section(title=HEADINGS[mode], figure=policies_figure(rows), name=f"policies-{mode}", tables=tables)


def describe(setup: PolicySetup) -> str:
    """What was run, in a sentence or two."""
    settings, classes = setup.settings, setup.settings.classes
    engine = "" if setup.slowdown is None else f" ({setup.rate / setup.slowdown:.2f} on the engine)"
    return (
        f"{len(settings.traces)} traces ({', '.join(settings.traces)}), {settings.seeds} seeds of "
        f"{settings.seconds:g} s each. Load 1 is {setup.rate:.2f} requests/s{engine}. Budgets are {classes.tight:g}, "
        f"{classes.medium:g} and {classes.loose:g} times what the universal model needs when idle; a quarter of the "
        "requests has none. Rejected requests miss their budgets and count at the narrowest submodel's loss. "
        "Intervals: 95 %, over seeds. Times are in milliseconds."
    )


def policies_figure(rows: Sequence[PolicyRow]) -> go.Figure:
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


def _point(row: PolicyRow, attainment: Mean, policies: Sequence[str], *, first: bool) -> go.Scatter:
    which = policies.index(row.policy)
    color = ACCENT if row.policy == OURS else LINES[1:][which % (len(LINES) - 1)]
    columns = [f"{name} {text}" for name, text in row.text_columns().items() if name != "policy"]
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
        hovertext=["<br>".join([f"<b>{row.policy}</b> at {row.load:g}×", *columns])],
        hovertemplate=SHOWN_ON_HOVER,
    )


def _error(mean: Mean, color: str, *, scale: float = 1.0) -> Mapping[str, Any] | None:
    if mean.high is None:
        return None
    return {"array": [scale * (mean.high - mean.mean)], "color": color, "thickness": 1.2, "width": 3}
