"""The page of a capacity plan: what the fleets that were tried cost, and what they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go

from lts_ray.console import cell_text
from lts_ray.report.page import TABLE, figure_html, write_page
from lts_ray.report.style import ACCENT, INK, MUTED, SHOWN_ON_HOVER, styled
from serve.simulate.capacity_plan import CapacityPlan, PlannedFleet

BODY = (
    """\
<h1>Capacity plan</h1>
<p>{{ answer }} {{ tried }}</p>
<div class="two">{% for figure in figures %}<div>{{ figure }}</div>{% endfor %}</div>
<h2>The front</h2>
<p>Fleets that no other one beats in cost, budgets kept and quality.</p>
"""
    + TABLE
    + """<footer><dl>
{% for key, value in settings.items() if value is not none %}<dt>{{ key }}</dt><dd><code>{{ value }}</code></dd>
{% endfor %}
</dl></footer>
"""
)


def write_plan_page(path: Path, plan: CapacityPlan, *, settings: Mapping[str, Any]) -> None:
    """settings: for people."""
    write_page(
        path,
        BODY,
        title="lts-ray capacity plan",
        answer=answer_text(plan),
        tried=tried_text(plan),
        figures=[figure_html(_figure(plan, part), part) for part in ("attainment", "loss")],
        rows=plan_rows(plan),
        settings=settings,
        cell_text=cell_text,
    )


def plan_rows(plan: CapacityPlan) -> list[dict[str, Any]]:
    """The front, the cheapest first; without losses where none are known."""
    return [
        {
            **fleet.replicas,
            "cost per hour": fleet.cost_per_hour,
            "kept, %": 100 * fleet.attainment,
            **({"loss": fleet.loss} if any(each.loss for each in plan.tried) else {}),
            "": "cheapest" if fleet == plan.cheapest else "",
        }
        for fleet in plan.front
    ]


def answer_text(plan: CapacityPlan) -> str:
    """One line, whether or not there is a fleet that keeps what is wanted."""
    wanted, best = f"{100 * plan.wanted:g} % of the budgets", plan.cheapest
    if best is None:
        most = max(plan.tried, key=lambda fleet: (fleet.attainment, -fleet.cost_per_hour))
        return f"No fleet keeps {wanted}: {_fleet_text(most)} is the best."
    return f"The cheapest fleet that keeps {wanted} is {_fleet_text(best)}."


def tried_text(plan: CapacityPlan) -> str:
    return (
        f"Of {plan.fleets:,} fleets {len(plan.tried):,} were tried on the whole load, and {len(plan.seen):,} no "
        "further than on its busiest part."
    )


def _fleet_text(fleet: PlannedFleet) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in fleet.replicas.items() if count)
    return f"{counts} ({100 * fleet.attainment:.2f} % at {fleet.cost_per_hour:g} an hour)"


def _figure(plan: CapacityPlan, part: Literal["attainment", "loss"]) -> go.Figure:
    front = plan.front
    groups: Sequence[tuple[str, Sequence[PlannedFleet], str, int]] = (
        ("beaten", [fleet for fleet in plan.tried if fleet not in front], MUTED, 7),
        ("the front", front, ACCENT, 9),
        ("cheapest", [fleet for fleet in front if fleet == plan.cheapest], "#d9822b", 14),
    )
    figure = go.Figure(
        [
            go.Scatter(
                x=[fleet.cost_per_hour for fleet in fleets],
                y=[getattr(fleet, part) for fleet in fleets],
                name=name,
                mode="markers",
                marker={"color": colour, "size": size},
                hovertext=[f"{_fleet_text(fleet)}<br>loss {fleet.loss:.4g}" for fleet in fleets],
                hovertemplate=SHOWN_ON_HOVER,
            )
            for name, fleets, colour, size in groups
            if fleets
        ]
    )
    if part == "attainment":
        figure.add_hline(plan.wanted, line={"color": INK, "width": 1, "dash": "dash"})
        figure.update_yaxes(title_text="budgets kept", tickformat=".4~%")
    else:
        figure.update_yaxes(title_text="mean loss of a token")
    figure.update_xaxes(title_text="cost per hour", rangemode="tozero")
    return styled(figure, height=380).update_layout(showlegend=True)
