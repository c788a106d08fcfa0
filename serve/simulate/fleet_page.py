"""The page of simulated fleets: budgets kept, quality, replicas, queues, slack and cost over time, run beside run."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from lts_ray.console import cell_text
from lts_ray.report.page import figure_html, write_page
from lts_ray.report.style import LINES, styled
from serve.simulate.attainment_score import AttainmentScore
from serve.simulate.fleet_run import FleetRun
from serve.simulate.fleet_series import FleetSeries, Line
from serve.simulate.injected_fault import InjectedFault
from serve.traffic.budget_classes import BudgetClasses

UNITS = ((7200.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""Of time: from how many seconds on, how many one has, its name."""
HEIGHT = 270
CLASSES = tuple(field.name for field in fields(BudgetClasses))
DASHES = ("solid", "dot")
FAULT = "#c23b3b"
BODY = """\
<h1>Simulated fleet</h1>
<p>{{ text }}</p>
<div class="scroll"><table>
<thead><tr>{% for name in summary[0] %}
<th{% if loop.first %} class="text"{% endif %}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in summary %}
<tr>{% for value in row.values() %}
<td{% if loop.first %} class="text"{% endif %}>{{ cell_text(value) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if faults %}<p>Faults, marked in red: {{ faults | join("; ") }}.</p>{% endif %}
{% for heading, (said, figures) in themes.items() %}
<h2>{{ heading }}</h2>
<p>{{ said }}</p>
{% if figures | length > 1 %}<div class="two">{% endif %}
{% for name, figure in figures %}<div>{% if name %}<h3>{{ name }}</h3>{% endif %}{{ figure }}</div>{% endfor %}
{% if figures | length > 1 %}</div>{% endif %}
{% endfor %}
{% for run in runs if run.run.decisions %}
{% if loop.first %}<h2>What the autoscaler decided</h2>{% endif %}
<h3>{{ run.name }} <span>· {{ run.run.decisions | length }} times</span></h3>
<div class="tall"><table>
<thead><tr><th>{{ unit }}</th>{% for kind in run.series.kinds %}<th class="text">{{ kind }}</th>{% endfor %}
<th class="text">why</th></tr></thead>
<tbody>
{% for decision in run.run.decisions[:shown] %}
<tr><td>{{ cell_text(decision.at_s / per) }}</td>
{% for kind in run.series.kinds %}<td class="text">{{ decision.targets[kind] }}</td>{% endfor %}
<td class="text wrap">{{ decision.reason }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if run.run.decisions | length > shown %}<p>These are the first {{ shown }}.</p>{% endif %}
{% endfor %}
<footer><dl>
{% for key, value in settings.items() %}<dt>{{ key }}</dt><dd><code>{{ cell_text(value) }}</code></dd>
{% endfor %}
</dl></footer>
"""
SHOWN = 1000
"""Decisions."""


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    name: str
    """What is its own among the runs of a page."""
    score: AttainmentScore
    series: FleetSeries
    run: FleetRun
    """Its requests are not looked at."""


@dataclass(frozen=True, kw_only=True)
class _Curve:
    name: str
    edges_s: Sequence[float]
    values: Line
    colour: int
    dash: str = "solid"


def write_fleet_page(
    path: Path, runs: Sequence[ReportedRun], *, text: str, faults: Sequence[InjectedFault], settings: Mapping[str, Any]
) -> None:
    """runs: of one load; at least one, named apart. text, settings: of all of them, for people."""
    end_s = max(run.series.edges_s[-1] for run in runs)
    per, unit = next((per, unit) for least, per, unit in UNITS if end_s >= least)
    draw = partial(_figure_html, faults=faults, end_s=end_s, per=per, unit=unit)

    def together(name: str, title: str, lines: Callable[[FleetSeries], Mapping[str, Line]], **axis: Any) -> Markup:
        """All runs in one figure, a colour for each."""
        curves = [
            _Curve(
                name=" ".join(filter(None, (run.name if len(runs) > 1 else "", part))),
                edges_s=run.series.edges_s,
                values=values,
                colour=place,
                dash=dash,
            )
            for place, run in enumerate(runs)
            for (part, values), dash in zip(lines(run.series).items(), DASHES, strict=False)
        ]
        return draw(name, title, curves, axis)

    def beside(
        name: str, title: str, lines: Callable[[FleetSeries], Mapping[str, Sequence[Line]]], **axis: Any
    ) -> list[tuple[str, Markup]]:
        """A figure for each run, all of one scale; in it a colour for each name, and lines of its own dash."""
        drawn = [
            [
                _Curve(name=part, edges_s=run.series.edges_s, values=values, colour=colour, dash=dash)
                for colour, (part, several) in enumerate(lines(run.series).items())
                for values, dash in zip(several, DASHES, strict=False)
            ]
            for run in runs
        ]
        highest = max((value or 0.0 for curves in drawn for curve in curves for value in curve.values), default=0.0)
        axis = {"range": [0, 1.05 * highest or 1.0], **axis}
        return [
            (run.name if len(runs) > 1 else "", draw(f"{name}-{place}", title, curves, axis))
            for place, (run, curves) in enumerate(zip(runs, drawn, strict=True))
        ]

    share = {"range": [-0.02, 1.02], "tickformat": ".0%"}
    kept = beside(
        "kept",
        "budgets kept",
        lambda of: {"all": [of.attainment], **{name: [of.by_class[name]] for name in sorted(of.by_class, key=_rank)}},
        **share,
    )
    if len(runs) > 1:
        kept.insert(0, ("all classes", together("all-kept", "budgets kept", lambda of: {"": of.attainment}, **share)))
    first = runs[0].series
    load = _Curve(
        name="", edges_s=first.edges_s[:-1], values=first.came_s[:-1], colour=0
    )  # the last stretch is cut off
    themes = {
        "Load": ("Requests that came.", [("", draw("load", "requests a second", [load], {"rangemode": "tozero"}))]),
        "Budgets kept": (
            "Of the requests with a budget that came then, the share that kept all of its bounds.",
            kept,
        ),
        "Quality": (
            "Mean loss of a token, in nats: lower is better. Tokens that never came count as the narrowest submodel's.",
            [("", together("loss", "loss", lambda of: {"": of.loss}))],
        ),
        "Replicas": (
            "Solid: those that serve. Dotted: those that were asked for and do not serve yet.",
            beside("replicas", "replicas", lambda of: {k: [v.up, v.coming] for k, v in of.kinds.items()}),
        ),
        "Queue": (
            "Requests on the replicas of a kind. Solid: those that wait. Dotted: those that run.",
            beside("queue", "requests", lambda of: {k: [v.waiting, v.running] for k, v in of.kinds.items()}),
        ),
        "Slack": (
            "What answers left of the bound that was nearest, as a share of it; below zero it was missed. Solid: the "
            "median. Dotted: nine of ten left more.",
            [
                (
                    "",
                    together(
                        "slack",
                        "left of the bound",
                        lambda of: {"median": of.margin, "tenth": of.margin_tenth},
                        range=[-1.05, 1.02],
                        tickformat=".0%",
                    ),
                )
            ],
        ),
        "Cost": (
            "So far, in the fleet file's unit.",
            [("", together("cost", "cost", lambda of: {"": of.cost}, rangemode="tozero"))],
        ),
    }
    write_page(
        path,
        BODY,
        title="lts-ray simulated fleet",
        text=text,
        summary=[_summary(run) for run in runs],
        themes=themes,
        runs=runs,
        unit=unit,
        per=per,
        shown=SHOWN,
        faults=[_fault_text(fault) for fault in faults],
        settings=settings,
        cell_text=cell_text,
    )


def _rank(klass: str) -> int:
    """Tight first; what a trace names otherwise comes last."""
    return CLASSES.index(klass) if klass in CLASSES else len(CLASSES)


def _summary(run: ReportedRun) -> dict[str, Any]:
    score = run.score
    kept = {
        "kept, %": score.attainment,
        **{f"{name}, %": share for name, share in sorted(score.by_class.items(), key=lambda item: _rank(item[0]))},
    }
    return {
        "run": run.name,
        **{name: None if share is None else 100 * share for name, share in kept.items()},
        "mean loss": score.loss,
        "rejected": score.rejected,
        "failed": score.failed,
        "moved": run.run.migrations,
        **{f"{kind}, hours": hours for kind, hours in (run.run.replica_hours or {}).items()},
        "cost": run.run.cost,
    }


def _fault_text(fault: InjectedFault) -> str:
    which = "all" if fault.replica is None else f"number {fault.replica}"
    how = "killed" if fault.what == "kill" else f"{fault.factor:g} times slower"
    long = "" if fault.for_s is None else f" for {fault.for_s:g} s"
    return f"{fault.at_s:g} s: {fault.kind}, {which}, {how}{long}"


def _figure_html(
    name: str,
    title: str,
    curves: Sequence[_Curve],
    axis: Mapping[str, Any],
    *,
    faults: Sequence[InjectedFault],
    end_s: float,
    per: float,
    unit: str,
) -> Markup:
    figure = go.Figure()
    for curve in curves:
        figure.add_trace(
            go.Scatter(
                x=[at_s / per for at_s in curve.edges_s],
                y=[*curve.values, *curve.values[-1:]],
                name=html.escape(curve.name),
                showlegend=curve.dash == DASHES[0],
                mode="lines+markers",
                line={"color": LINES[curve.colour % len(LINES)], "width": 1.8, "dash": curve.dash, "shape": "hv"},
                marker={"size": 3},
                hovertemplate="%{x:.4g} " + unit + ": %{y:.4g}<extra>" + html.escape(curve.name) + "</extra>",
            )
        )
    for fault in faults:
        if fault.for_s is None:
            figure.add_vline(fault.at_s / per, line={"color": FAULT, "width": 1, "dash": "dash"})
        else:
            end = min(end_s, fault.at_s + fault.for_s)
            figure.add_vrect(fault.at_s / per, end / per, fillcolor=FAULT, opacity=0.12, line_width=0)
    figure.update_xaxes(title_text=unit, range=[0, end_s / per or 1.0])
    figure.update_yaxes(title_text=title, **axis)
    styled(figure, height=HEIGHT)
    figure.update_layout(showlegend=len(curves) > 1)
    return figure_html(figure, name)
