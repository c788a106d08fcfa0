"""Loss, and consistency with the largest model, against non-embedding parameters: MatFormer's figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.nested.nested_quality import NestedQuality, ScaleQuality
from lts_ray.report.style import ACCENT, INK, LINES, MUTED, SHOWN_ON_HOVER, styled

AXES = {"loss": "validation loss, nats per token", "agreement": "tokens that agree with the largest model, %"}
TRAINED, PLAIN = "one universal model", "four plain models, trained alone"
SLOPE, SEARCHED, DRAWN = "Mix'n'Match, least slope", "Mix'n'Match, searched", "Mix'n'Match, drawn at random"


def nested_figure(quality: ScaleQuality) -> go.Figure:
    """Two panels that share their x axis' meaning; a point's hover text has its widths and all its numbers."""
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09)
    for column, axis in enumerate(AXES, start=1):
        for trace in _traces(quality, axis):
            rank = (TRAINED, PLAIN, SLOPE, SEARCHED, DRAWN).index(trace.name)
            trace.update(showlegend=column == 1, legendgroup=trace.name, legendrank=rank)
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="non-embedding parameters, millions", row=1, col=column)
        figure.update_yaxes(title_text=AXES[axis], row=1, col=column)
    return styled(figure, height=460)


def _traces(quality: ScaleQuality, axis: str) -> list[go.Scatter]:
    """The granularities last, on top."""
    names = [twins.name for twins in quality.twins]
    white = {"color": "white", "width": 1}
    drawn = [point for choice in quality.equal_sizes for point in choice.drawn]
    return [
        _trace(drawn, axis, DRAWN, marker={"color": MUTED, "size": 6, "opacity": 0.7}),
        _trace(
            [twins.baseline for twins in quality.twins], axis, PLAIN, names=names, mode="lines+markers",
            line={"color": LINES[1], "width": 1.5, "dash": "dot"},
            marker={"color": LINES[1], "symbol": "square", "size": 9, "line": white},
        ),
        _trace(
            [twins.universal for twins in quality.twins], axis, TRAINED, names=names, mode="lines+markers+text",
            line={"color": ACCENT, "width": 1.5},
            marker={"color": ACCENT, "symbol": "diamond", "size": 11, "line": white},
            text=[f"<b>{name}</b>" for name in names],
            textposition="bottom left" if axis == "loss" else "top left",
            textfont={"size": 13, "color": INK},
        ),
        _trace(
            quality.between, axis, SLOPE, marker={"color": "white", "size": 7, "line": {"color": ACCENT, "width": 1.6}}
        ),
        _trace(
            [choice.searched for choice in quality.equal_sizes], axis, SEARCHED,
            marker={"color": LINES[2], "symbol": "triangle-up", "size": 8, "line": white},
        ),
    ]  # fmt: skip


def _trace(
    points: Sequence[NestedQuality],
    axis: str,
    name: str,
    *,
    names: Sequence[str] = (),
    mode: str = "markers",
    **style: Any,
) -> go.Scatter:
    return go.Scatter(
        x=[point.decoder_params / 1e6 for point in points],
        y=[point.loss if axis == "loss" else 100 * point.agreement for point in points],
        mode=mode,
        name=name,
        hovertext=[_hover(point, names[place] if names else None) for place, point in enumerate(points)],
        hovertemplate=SHOWN_ON_HOVER,
        **style,
    )


def _hover(point: NestedQuality, name: str | None) -> str:
    """Runs of one width are written once: a deep model's widths are longer than a figure is wide."""
    lines = [] if name is None else [f"<b>{name}</b>"]
    lines += [
        _widths(point.submodel.widths),
        f"{point.decoder_params:,} non-embedding parameters",
        f"loss {point.loss:.4f}",
        f"agreement {100 * point.agreement:.2f} %, KL {point.kl:.4f}",
    ]
    return "<br>".join(lines)


def _widths(widths: Sequence[int]) -> str:
    runs: list[tuple[int, int]] = []
    for width in widths:
        if runs and runs[-1][0] == width:
            runs[-1] = (width, runs[-1][1] + 1)
        else:
            runs.append((width, 1))
    return " · ".join(f"{count} × {width}" if count > 1 else str(width) for width, count in runs)
