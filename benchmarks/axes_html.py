"""axes.html: what `python -m benchmarks.axes` found, one self-contained file."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.axes import PREFILL_TOKENS, ROWS, AxesPoint, AxesResult
from benchmarks.axes_plan import ALL, FFN, HEADS
from lts_ray.measurement.steps import Regime
from lts_ray.report.page import figure_html, write_page
from lts_ray.report.style import INK, LINES, styled

NAMES = {FFN: "FFN alone", HEADS: "FFN and heads", ALL: "FFN, heads and d_model"}
PANELS: dict[Regime, str] = {
    "prefill": f"prefill of {PREFILL_TOKENS} tokens, ms",
    "decode": f"decode step of {ROWS} rows, ms",
}
BODY = """<h1>Nesting more than the FFN</h1>
<p>Loss against latency of three models of one shape that had one training compute. Large marks are the granularities,
small ones Mix'n'Match between two of them.</p>
{{ figure }}
<div class="tall"><table>
<thead><tr><th class="text">what nests</th><th class="text">granularity</th><th>parameters</th><th>loss</th>
<th>prefill<small>ms</small></th><th>decode<small>ms</small></th></tr></thead>
<tbody>
{% for name, point in rows %}
<tr><td class="text">{{ name }}</td><td class="text">{{ point.name or "mix" }}</td>
<td>{{ "{:,}".format(point.decoder_params) }}</td><td>{{ "%.4f" | format(point.loss) }}</td>
<td>{{ "%.2f" | format(point.latency_ms["prefill"]) }}</td>
<td>{{ "%.2f" | format(point.latency_ms["decode"]) }}</td></tr>
{% endfor %}
</tbody></table></div>
<footer>{{ machine }}</footer>
"""


def axes_figure(result: AxesResult) -> go.Figure:
    """A panel for each regime; all of a model's points in one colour."""
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09)
    for column, (regime, title) in enumerate(PANELS.items(), start=1):
        for place, model in enumerate(result.steps):
            figure.add_trace(_trace(result.of(model), regime, NAMES[model], LINES[place], column == 1), 1, column)
        figure.update_xaxes(title_text=title, row=1, col=column)
        figure.update_yaxes(title_text="validation loss, nats per token", row=1, col=column)
    return styled(figure, height=460)


def _trace(points: list[AxesPoint], regime: Regime, name: str, colour: str, shown: bool) -> go.Scatter:
    return go.Scatter(
        x=[each.latency_ms[regime] for each in points],
        y=[each.loss for each in points],
        mode="lines+markers+text",
        name=name,
        showlegend=shown,
        legendgroup=name,
        line={"color": colour, "width": 1.5},
        marker={"color": colour, "size": [11 if each.name else 6 for each in points]},
        text=[f"<b>{each.name}</b>" if each.name else "" for each in points],
        textposition="top right",
        textfont={"size": 12, "color": INK},
        hovertext=[
            f"{each.name or 'mix'}: {each.decoder_params:,} parameters, loss {each.loss:.4f}" for each in points
        ],
        hovertemplate="%{hovertext}<br>%{x:.2f} ms<extra></extra>",
    )


def write_axes_page(result: AxesResult, path: Path) -> None:
    machine = result.machine
    write_page(
        path,
        BODY,
        title="python -m benchmarks.axes",
        figure=figure_html(axes_figure(result), "axes"),
        rows=[(NAMES[model], each) for model in result.steps for each in result.of(model)],
        machine=f"{machine.gpu or machine.cpu}, {machine.cores} cores, {result.plan.threads} threads, "
        f"torch {machine.torch}, {result.rounds} rounds",
    )
