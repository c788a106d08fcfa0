"""Loss against non-embedding parameters with the laws fitted to it: MatFormer's figure 4."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.laws.scaling_law import KindFit, ScalingLaw
from benchmarks.laws.scaling_points import ScalingPoint
from lts_ray.report.style import INK, LINES, SHOWN_ON_HOVER, styled

DASHES = {"universal": "solid", "baseline": "dash"}
SYMBOLS = {"universal": "diamond", "baseline": "square-open"}
KIND_NAMES = {"universal": "one universal model", "baseline": "plain models, trained alone"}
PANELS = ("a law for each granularity", "one law for all of them")


def scaling_figure(fits: Sequence[KindFit]) -> go.Figure:
    """Colours are granularities, solid is universal and dashed is plain; sizes are logarithmic."""
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.08, shared_yaxes=True, subplot_titles=PANELS)
    names = dict.fromkeys(point.granularity for fitted in fits for point in fitted.points)
    colours = {name: LINES[place % len(LINES)] for place, name in enumerate(names)}
    named: set[str] = set()
    for fitted in fits:
        column = 2 if fitted.granularity is None else 1
        label = fitted.granularity or KIND_NAMES[fitted.kind]
        line = go.Scatter(
            mode="lines",
            line={"color": colours.get(label, INK), "width": 1.8, "dash": DASHES[fitted.kind]},
            hoverinfo="skip",
            showlegend=label not in named,
            legendrank=column,
        )
        sizes = [point.params for point in fitted.points]
        line.x = np.geomspace(min(sizes), max(sizes), 60).tolist()
        line.y = [fitted.fit.law.loss_at(size) for size in line.x]
        markers = go.Scatter(
            x=sizes,
            y=[point.loss for point in fitted.points],
            mode="markers",
            showlegend=False,
            marker={
                "color": [colours[point.granularity] for point in fitted.points],
                "symbol": SYMBOLS[fitted.kind],
                "size": 8,
                "line": {"width": 1.4 if fitted.kind == "baseline" else 0},
            },
            hovertext=[_hover(point, fitted.fit.law) for point in fitted.points],
            hovertemplate=SHOWN_ON_HOVER,
        )
        named.add(label)
        for trace in (line, markers):
            trace.update(name=label, legendgroup=label)
            figure.add_trace(trace, row=1, col=column)
    figure.update_annotations(font_size=13, yshift=4)
    figure.update_xaxes(title_text="non-embedding parameters", type="log", exponentformat="SI", dtick="D2")
    figure.update_yaxes(title_text="validation loss, nats per token", col=1)
    figure.update_yaxes(showticklabels=True, col=2)
    styled(figure, height=540)
    figure.update_layout(margin_t=80, legend_y=1.09)
    return figure


def _hover(point: ScalingPoint, law: ScalingLaw) -> str:
    return (
        f"<b>{point.granularity}</b>, {KIND_NAMES[point.kind]}<br>"
        f"d_model {point.d_model}, {point.params:,} non-embedding parameters<br>"
        f"loss {point.loss:.4f}; by the law {law.loss_at(point.params):.4f}<br>"
        f"trained on {point.tokens:,} tokens"
    )
