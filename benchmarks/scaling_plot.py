"""Loss against non-embedding parameters with the laws fitted to it: MatFormer's figure 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.scaling import KindFit, Result
from benchmarks.scaling_points import ScalingPoint
from lts_ray.report.style import INK, LINES, SHOWN_ON_HOVER, styled

DASHES = {"universal": "solid", "baseline": "dash"}
SYMBOLS = {"universal": "diamond", "baseline": "square-open"}
KIND_NAMES = {"universal": "one universal model", "baseline": "plain models, trained alone"}
PANELS = ("a law for each granularity", "one law for all of them")


def scaling_figure(result: Result) -> go.Figure:
    """Colours are granularities, solid is universal and dashed is plain; sizes are logarithmic."""
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.08, shared_yaxes=True, subplot_titles=PANELS)
    names = dict.fromkeys(each.granularity for each in result.points)
    colours = {name: LINES[place % len(LINES)] for place, name in enumerate(names)}
    named: set[str] = set()
    for each in result.fits:
        column = 2 if each.granularity is None else 1
        points = _points(result, each)
        label = each.granularity or KIND_NAMES[each.kind]
        colour = INK if each.granularity is None else colours[each.granularity]
        line = _line(each, points, label, colour)
        line.update(showlegend=label not in named, legendrank=2 if each.granularity is None else 1)
        named.add(label)
        figure.add_trace(line, row=1, col=column)
        figure.add_trace(_markers(each, points, label, colours), row=1, col=column)
    figure.update_annotations(font_size=13, yshift=4)
    figure.update_xaxes(title_text="non-embedding parameters", type="log", exponentformat="SI", dtick="D2")
    figure.update_yaxes(title_text="validation loss, nats per token", col=1)
    figure.update_yaxes(showticklabels=True, col=2)
    styled(figure, height=540)
    figure.update_layout(margin_t=80, legend_y=1.09)
    return figure


def _points(result: Result, each: KindFit) -> list[ScalingPoint]:
    """What the law was fitted to."""
    return [
        point for point in result.points if point.kind == each.kind and each.granularity in (None, point.granularity)
    ]


def _line(each: KindFit, points: Sequence[ScalingPoint], label: str, colour: str) -> go.Scatter:
    sizes = [point.params for point in points]
    x = np.geomspace(min(sizes), max(sizes), 60).tolist()
    return go.Scatter(
        x=x,
        y=[each.fit.law.loss_at(size) for size in x],
        mode="lines",
        name=label,
        legendgroup=label,
        line={"color": colour, "width": 1.8, "dash": DASHES[each.kind]},
        hoverinfo="skip",
    )


def _markers(each: KindFit, points: Sequence[ScalingPoint], label: str, colours: Mapping[str, str]) -> go.Scatter:
    return go.Scatter(
        x=[point.params for point in points],
        y=[point.loss for point in points],
        mode="markers",
        name=label,
        legendgroup=label,
        showlegend=False,
        marker={
            "color": [colours[point.granularity] for point in points],
            "symbol": SYMBOLS[each.kind],
            "size": 8,
            "line": {"width": 1.4 if each.kind == "baseline" else 0},
        },
        hovertext=[
            "<br>".join(
                (
                    f"<b>{point.granularity}</b>, {KIND_NAMES[point.kind]}",
                    f"d_model {point.d_model}, {point.params:,} non-embedding parameters",
                    f"loss {point.loss:.4f}; by the law {each.fit.law.loss_at(point.params):.4f}",
                    f"trained on {point.tokens:,} tokens",
                )
            )
            for point in points
        ],
        hovertemplate=SHOWN_ON_HOVER,
    )
