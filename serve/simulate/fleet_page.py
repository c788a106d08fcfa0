"""The page of simulated fleets: budgets kept, quality, replicas, queues, slack and cost over time, run beside run.

It is made of what run.json has, and of nothing else.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup

from lts_ray.console import cell_text
from lts_ray.report.page import figure_html, write_page
from lts_ray.report.style import LINES, styled
from serve.traffic.budget_classes import BudgetClasses

UNITS = ((7200.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""Of time: from how many seconds on, how many one has, its name."""
HEIGHT, FAULT, DASHES, DECISIONS = 270, "#c23b3b", ("solid", "dot"), 1000
CLASSES = tuple(field.name for field in fields(BudgetClasses))
BODY = """\
<h1>Simulated fleet</h1>
<p>Requests for {{ cell_text(load.seconds) }} s, {{ cell_text(load.rate) }} a second, in virtual time.</p>
<div class="scroll"><table>
<thead><tr>{% for name in summary[0] %}<th{% if loop.first %} class="text"{% endif %}>{{ name }}</th>{% endfor %}</tr>
</thead><tbody>
{% for row in summary %}<tr>
{% for value in row.values() %}<td{% if loop.first %} class="text"{% endif %}>{{ cell_text(value) }}</td>{% endfor %}
</tr>{% endfor %}
</tbody></table></div>
{% if faults %}<p>Faults, marked in red: {{ faults | join("; ") }}.</p>{% endif %}
{% for heading, said, figures in themes %}
<h2>{{ heading }}</h2>
<p>{{ said }}</p>
{% if figures | length > 1 %}<div class="two">{% endif %}
{% for name, figure in figures.items() %}<div>{% if name %}<h3>{{ name }}</h3>{% endif %}{{ figure }}</div>{% endfor %}
{% if figures | length > 1 %}</div>{% endif %}
{% endfor %}
{% for name, run in runs.items() if run.decisions %}
{% if loop.first %}<h2>What the autoscaler decided</h2>{% endif %}
<h3>{{ name }} <span>· {{ run.decisions | length }} times
{%- if run.decisions | length > most %}; the first {{ most }}{% endif %}</span></h3>
<div class="tall"><table>
<thead><tr><th>{{ unit }}</th>{% for kind in run.result.kinds %}<th>{{ kind }}</th>{% endfor %}
<th class="text">why</th></tr></thead>
<tbody>
{% for decision in run.decisions[:most] %}
<tr><td>{{ cell_text(decision.at_s / per) }}</td>
{% for kind in run.result.kinds %}<td>{{ decision.targets[kind] }}</td>{% endfor %}
<td class="text wrap">{{ decision.reason }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
<footer><dl>
{% for key, value in settings.items() if value is not none %}<dt>{{ key }}</dt><dd><code>{{ value }}</code></dd>
{% endfor %}
</dl></footer>
"""
Series = Mapping[str, Any]
"""What `fleet_series` gives, as JSON."""


class _Curve(NamedTuple):
    name: str
    stretch_s: float
    values: Sequence[float | None]
    colour: int
    dash: str = "solid"


def write_fleet_page(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """runs: by name, what their run.json has: of one load, with the same faults."""
    all_series = {name: run["series"] for name, run in runs.items()}
    end_s = max(series["stretch_s"] * len(series["came_s"]) for series in all_series.values())
    first = next(iter(runs.values()))
    draw = _Drawing(end_s=end_s, faults=first["faults"])

    def together(name: str, title: str, *parts: str, **axis: Any) -> dict[str, Markup]:
        """One figure, a colour for each run."""
        curves = [
            _Curve(run, series["stretch_s"], series[part], colour, dash)
            for colour, (run, series) in enumerate(all_series.items())
            for part, dash in zip(parts, DASHES, strict=False)
        ]
        return {"": draw.figure(name, title, curves, **axis)}

    def beside(name: str, title: str, lines: Callable[[Series], Mapping[str, Any]], **axis: Any) -> dict[str, Markup]:
        """A figure for each run, all of one scale; in it a colour for each name."""
        drawn = {
            run: [
                _Curve(part, series["stretch_s"], line, colour, dash)
                for colour, (part, several) in enumerate(lines(series).items())
                for line, dash in zip(several, DASHES, strict=False)
            ]
            for run, series in all_series.items()
        }
        highest = max(
            (value or 0.0 for curves in drawn.values() for curve in curves for value in curve.values), default=0
        )
        return {
            run if len(runs) > 1 else "": draw.figure(
                f"{name}-{place}", title, curves, **{"range": [0, 1.05 * highest or 1], **axis}
            )
            for place, (run, curves) in enumerate(drawn.items())
        }

    def classes(series: Series) -> dict[str, Any]:
        return {name: [series["by_class"][name]] for name in _ordered(series["by_class"])}

    lowest = min(
        (
            value
            for run in all_series.values()
            for line in (run["attainment"], *run["by_class"].values())
            for value in line
            if value is not None
        ),
        default=0.0,
    )
    share = {"range": [max(0.0, lowest - 0.02) - 0.02, 1.01], "tickformat": ".4~%"}
    came = [
        _Curve("", series["stretch_s"], series["came_s"][:-1], 0) for series in all_series.values()
    ]  # the last is cut off
    themes = [
        ("Load", "Requests that came.", {"": draw.figure("load", "requests a second", came[:1], rangemode="tozero")}),
        (
            "Budgets kept",
            "Of the requests with a budget that came then, the share that kept all of its bounds.",
            together("kept", "budgets kept", "attainment", **share),
        ),
        ("Budgets kept, by class", "The same, of each class.", beside("class", "budgets kept", classes, **share)),
        (
            "Quality",
            "Mean loss of a token, in nats: lower is better. Tokens that never came count as the narrowest submodel's.",
            together("loss", "loss", "loss"),
        ),
        (
            "Replicas",
            "Solid: those that serve. Dotted: those that were asked for and do not serve yet.",
            beside("replicas", "replicas", partial(_of_kinds, "up", "coming")),
        ),
        (
            "Queue",
            "Requests on the replicas of a kind. Solid: those that wait. Dotted: those that run.",
            beside("queue", "requests", partial(_of_kinds, "waiting", "running")),
        ),
        (
            "Slack",
            "What answers left of the bound that was nearest, as a share of it; below zero it was missed. Solid: the "
            "median. Dotted: nine of ten left more.",
            together("slack", "left of the bound", "margin", "margin_tenth", range=[-1.05, 1.02], tickformat=".0%"),
        ),
        ("Cost", "So far, in the fleet file's unit.", together("cost", "cost", "cost", rangemode="tozero")),
    ]
    write_page(
        path,
        BODY,
        title="lts-ray simulated fleet",
        load=first["load"],
        summary=[{"run": name, **summary_row(run["result"])} for name, run in runs.items()],
        themes=themes,
        runs=runs,
        unit=draw.unit,
        per=draw.per,
        most=DECISIONS,
        faults=list(map(_fault_text, first["faults"])),
        settings=first["settings"],
        cell_text=cell_text,
    )


def summary_row(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run came to, of what its run.json has."""
    kept = {"kept": result["attainment"], **{name: result["by_class"][name] for name in _ordered(result["by_class"])}}
    return {
        **{f"{name} %": None if share is None else 100 * share for name, share in kept.items()},
        "loss": result["loss"],
        "rejected": result["rejected"],
        "failed": result["failed"],
        "moved": result["migrations"],
        **{f"{kind} h": each["replica_hours"] for kind, each in result["kinds"].items()},
        "cost": result["cost"],
    }


def _ordered(classes: Iterable[str]) -> list[str]:
    """Tight first; what a trace names otherwise comes last."""
    return sorted(classes, key=lambda name: CLASSES.index(name) if name in CLASSES else len(CLASSES))


def _of_kinds(solid: str, dotted: str, series: Series) -> dict[str, Any]:
    return {kind: [each[solid], each[dotted]] for kind, each in series["kinds"].items()}


def _fault_text(fault: Mapping[str, Any]) -> str:
    which = "all" if fault["replica"] is None else f"number {fault['replica']}"
    how = "killed" if fault["what"] == "kill" else f"{fault['factor']:g} times slower"
    long = "" if fault["for_s"] is None else f" for {fault['for_s']:g} s"
    return f"{fault['at_s']:g} s: {fault['kind']}, {which}, {how}{long}"


class _Drawing:
    """Figures over the same time."""

    def __init__(self, *, end_s: float, faults: Sequence[Mapping[str, Any]]) -> None:
        self._end_s, self._faults = end_s, faults
        self.per, self.unit = next((per, unit) for least, per, unit in UNITS if end_s >= least)

    def figure(self, name: str, title: str, curves: Sequence[_Curve], **axis: Any) -> Markup:
        """name: of its element on the page. title, axis: of what is drawn over time."""
        if all(value is None for curve in curves for value in curve.values):
            return Markup("<p>There were none.</p>")
        figure = go.Figure([self._scatter(curve) for curve in curves])
        for fault in self._faults:
            begin, for_s = fault["at_s"] / self.per, fault["for_s"]
            if for_s is None:
                figure.add_vline(begin, line={"color": FAULT, "width": 1, "dash": "dash"})
            else:
                end = min(self._end_s / self.per, begin + for_s / self.per)
                figure.add_vrect(begin, end, fillcolor=FAULT, opacity=0.12, line_width=0)
        figure.update_xaxes(title_text=self.unit, range=[0, self._end_s / self.per])
        figure.update_yaxes(title_text=title, **axis)
        styled(figure, height=HEIGHT).update_layout(showlegend=len({curve.name for curve in curves}) > 1)
        return figure_html(figure, name)

    def _scatter(self, curve: _Curve) -> go.Scatter:
        name = html.escape(curve.name)
        return go.Scatter(
            x=[round(place * curve.stretch_s / self.per, 6) for place in range(len(curve.values) + 1)],
            y=[*curve.values, *curve.values[-1:]],  # to the last stretch's end
            name=name,
            showlegend=curve.dash == DASHES[0],
            mode="lines+markers",
            line={"color": LINES[curve.colour % len(LINES)], "width": 1.8, "dash": curve.dash, "shape": "hv"},
            marker={"size": 3},
            hovertemplate=f"%{{x:.4g}} {self.unit}: %{{y:.4g}}<extra>{name}</extra>",
        )
