"""Loss, and consistency with the largest model, against non-embedding parameters: MatFormer's figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.nested.nested_quality import NestedQuality, ScaleQuality
from lts_ray.report.style import ACCENT, INK, LINES, MUTED, SHOWN_ON_HOVER, styled

AXES = {"loss": "validation loss, nats per token", "agreement": "tokens that agree with the largest model, %"}
TRAINED, PLAIN = "one universal model", "four plain models, trained alone"
SLOPE, SEARCHED, DRAWN = "Mix'n'Match, least slope", "Mix'n'Match, searched", "Mix'n'Match, drawn at random"
LEGEND = (TRAINED, PLAIN, SLOPE, SEARCHED, DRAWN)


def nested_figure(quality: ScaleQuality) -> go.Figure:
    """A panel for losses and one for agreement; a point's hover text has its widths and all its numbers."""
    names = [twins.name for twins in quality.twins]
    white = {"color": "white", "width": 1}
    series: dict[str, tuple[Sequence[NestedQuality], dict[str, Any]]] = {
        DRAWN: (
            [point for choice in quality.equal_sizes for point in choice.drawn],
            {"mode": "markers", "marker": {"color": MUTED, "size": 6, "opacity": 0.7}},
        ),
        PLAIN: (
            [twins.baseline for twins in quality.twins],
            {
                "mode": "lines+markers",
                "line": {"color": LINES[1], "width": 1.5, "dash": "dot"},
                "marker": {"color": LINES[1], "symbol": "square", "size": 9, "line": white},
            },
        ),
        TRAINED: (
            [twins.universal for twins in quality.twins],
            {
                "mode": "lines+markers+text",
                "line": {"color": ACCENT, "width": 1.5},
                "marker": {"color": ACCENT, "symbol": "diamond", "size": 11, "line": white},
                "text": [f"<b>{name}</b>" for name in names],
                "textposition": "bottom left",
                "textfont": {"size": 13, "color": INK},
            },
        ),
        SLOPE: (
            quality.between,
            {"mode": "markers", "marker": {"color": "white", "size": 7, "line": {"color": ACCENT, "width": 1.6}}},
        ),
        SEARCHED: (
            [choice.searched for choice in quality.equal_sizes],
            {"mode": "markers", "marker": {"color": LINES[2], "symbol": "triangle-up", "size": 8, "line": white}},
        ),
    }
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09)
    for column, (axis, title) in enumerate(AXES.items(), start=1):
        for name, (points, style) in series.items():
            heads = [f"<b>{granularity}</b><br>" for granularity in names if name in (TRAINED, PLAIN)]
            trace = go.Scatter(
                x=[point.decoder_params / 1e6 for point in points],
                y=[point.loss if axis == "loss" else 100 * point.agreement for point in points],
                name=name,
                showlegend=column == 1,
                legendgroup=name,
                legendrank=LEGEND.index(name),
                hovertext=[
                    head + _hover(point) for head, point in zip(heads or [""] * len(points), points, strict=True)
                ],
                hovertemplate=SHOWN_ON_HOVER,
                **style,
            )
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="non-embedding parameters, millions", row=1, col=column)
        figure.update_yaxes(title_text=title, row=1, col=column)
    return styled(figure, height=460)


def _hover(point: NestedQuality) -> str:
    """Runs of one width are written once: a deep model's widths are longer than a figure is wide."""
    runs = [(width, len(list(layers))) for width, layers in groupby(point.submodel.widths)]
    return (
        f"{' · '.join(f'{count} × {width}' if count > 1 else str(width) for width, count in runs)}<br>"
        f"{point.decoder_params:,} non-embedding parameters<br>"
        f"loss {point.loss:.4f}<br>"
        f"agreement {100 * point.agreement:.2f} %, KL {point.kl:.4f}"
    )
