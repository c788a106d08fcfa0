"""report.html: what `python -m benchmarks.policies` found, one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.policies_folder import Setup
from benchmarks.policies_plot import policies_figure
from benchmarks.policies_summary import Row
from benchmarks.policies_table import wide_row
from benchmarks.verdicts import Verdict
from lts_ray.report.page import figure_html, write_page

HEADINGS = {"engine": "The engine, in real time", "simulated": "Simulated, with this node's step costs"}
BODY = """<h1>Budgets kept, and at which quality</h1>
<p>{{ setup }}</p>
{% for each in modes %}
<h2>{{ each.heading }}</h2>
{{ each.figure }}
{% for table in each.tables %}
<h3>{{ table.load }}× <span>the universal model's saturation</span></h3>
<div class="scroll"><table>
<thead><tr>
{% for name in table.names %}<th{% if loop.first %} class="text"{% endif %}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr{% if row[0] == "deadline" %} class="landmark"{% endif %}>
{% for value in row %}<td{% if loop.first %} class="text"{% endif %}>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
<h3>Wanted</h3>
<div class="scroll"><table><tbody>
{% for verdict in each.verdicts %}
<tr><td class="mark">{{ "✓" if verdict.holds else "✗" }}</td><td class="text">{{ verdict.load }}×</td>
<td class="text wrap" style="width:100%">{{ verdict.text }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
<footer>{{ machine }}</footer>
"""


def write_policies_page(path: Path, *, setup: Setup, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> None:
    """rows: over all traces."""
    machine = setup.machine
    write_page(
        path,
        BODY,
        title="python -m benchmarks.policies",
        setup=describe(setup),
        modes=[_section(mode, rows, verdicts) for mode in dict.fromkeys(row.mode for row in rows)],
        machine=f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"{setup.threads} threads; model {setup.model[:12]}",
    )


def describe(setup: Setup) -> str:
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


def _section(mode: str, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    chosen = [row for row in rows if row.mode == mode]
    tables = []
    for load in sorted({row.load for row in chosen}):
        shown = [wide_row(row) for row in chosen if row.load == load]
        tables.append({"load": f"{load:g}", "names": [*shown[0]], "rows": [[*each.values()] for each in shown]})
    return {
        "heading": HEADINGS[mode],
        "figure": figure_html(policies_figure(chosen), f"policies-{mode}"),
        "tables": tables,
        "verdicts": [
            {"holds": each.holds, "load": f"{each.load:g}", "text": each.text} for each in verdicts if each.mode == mode
        ],
    }
