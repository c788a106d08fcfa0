"""The frame of a page: one self-contained file with the report's style, and plotly.js inside, once."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from lts_ray.files import write_text
from lts_ray.report.search_page import FLAT
from lts_ray.report.template import STYLE

HEAD = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page_title }}</title>
<style>"""
    + STYLE
    + """</style>
<script>{{ plotly }}</script>
</head>
<body>
<main>
"""
)
TAIL = """</main>
</body>
</html>
"""


def write_page(path: Path, body: str, *, title: str, **values: object) -> None:
    """body: a Jinja template of what is inside <main>, filled with `values`; text among them is escaped."""
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(HEAD + body + TAIL)
    plotly = Markup(get_plotlyjs())  # plotly's own script, not user input
    write_text(path, template.render(page_title=title, plotly=plotly, **values))


def figure_html(figure: Figure, name: str) -> Markup:
    """For a page's body. name: of the element, one of its own on the page."""
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=dict(FLAT), div_id=name))
