"""What a benchmark leaves: tables on the screen, the same tables and figures on a page, and every number as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from benchmarks.common.machine import Machine
from lts_ray.console import cell_text, print_rows
from lts_ray.files import write_json
from lts_ray.report.page import TABLE, figure_html, write_page

BODY = (
    """<h1>{{ heading }}</h1>
<p>{{ text }}</p>
{% for section, figure in sections %}
{% if section.title %}<h2>{{ section.title }}</h2>{% endif %}
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% if figure %}{{ figure }}{% endif %}
{% for title, rows in section.tables.items() %}
<h2>{{ title }}</h2>
"""
    + TABLE
    + """{% endfor %}
{% endfor %}
<footer>{{ footer }}</footer>
"""
)
Tables = Mapping[str, Sequence[Mapping[str, Any]]]
"""By title, rows that share their keys, which head the columns."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A figure, and the tables below it."""

    title: str = ""
    text: str = ""
    figure: Figure | None = None
    name: str = ""
    """Of the figure's element on the page."""
    tables: Tables


def leave_result(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    *,
    heading: str,
    text: str,
    sections: Sequence[Section],
    machine: Machine | None,
    summary: Mapping[str, Any],
) -> None:
    """Print the tables and, last, `summary` as a line of JSON; write NAME.json, the record, and NAME.html, the page.

    machine: None where nothing was measured here.
    """
    for section in sections:
        for title, rows in section.tables.items():
            print_rows(rows, as_json=False, title=title)
        if section.text:
            print(section.text)
    write_json(folder / f"{name}.json", record)
    page = folder / f"{name}.html"
    write_page(
        page,
        BODY,
        title=f"benchmarks: {name}",
        heading=heading,
        text=text,
        sections=[(section, section.figure and figure_html(section.figure, section.name)) for section in sections],
        cell_text=cell_text,
        footer=machine and f"{machine.gpu or machine.cpu}, {machine.cores} cores, torch {machine.torch}",
    )
    print(f"The results are in {folder / name}.json; the page is {page}")
    print(json.dumps(summary))
