"""What all figures share: colours, fonts, axes."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, GRID, ACCENT = "#1f2933", "#9aa5b1", "#e4e7eb", "#1d6fa5"
LINES = ("#1d6fa5", "#d9822b", "#3d9a5f", "#8f5bb5", "#c23b3b", "#6b7785", "#b58900", "#2aa198")
MEMORY_SCALE = ((0.0, "#f2c14e"), (0.5, "#d1495b"), (1.0, "#2e1f5e"))
HOVER = {"bgcolor": "white", "bordercolor": GRID, "font": {"family": FONT, "size": 12, "color": INK}, "align": "left"}
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 13}}
SHOWN_ON_HOVER = "%{hovertext}<extra></extra>"


def styled(figure: go.Figure, *, height: int) -> Any:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 36, "b": 52},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        legend=LEGEND,
        hoverlabel=HOVER,
    )
    axes = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED, "ticks": "outside", "tickcolor": MUTED}
    titles = {"title_standoff": 10, "title_font": {"size": 13}}
    figure.update_xaxes(automargin=True, **titles, **axes)
    figure.update_yaxes(automargin=True, **titles, **axes)
    return figure
