"""The frame of every page for a person: one self-contained file with plotly.js inside, once; nothing is fetched.

One column, system fonts, light or dark as the reader's system is; tables scroll where they are larger than the page. It
knows no page in particular.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from lts_ray.files import write_text

FLAT: Mapping[str, Any] = {"displayModeBar": False, "responsive": True, "showSendToCloud": False}
"""Plotly's options for a figure without buttons; its own default is one that uploads the figure."""

TABLE = """<div class="tall"><table>
<thead><tr>{% for name in rows[0] %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for value in row.values() %}<td>{{ cell_text(value) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
"""
"""A part of a page's body: `rows`, at least one, that share their keys, which head the columns."""

STYLE = """
  :root { color-scheme: light dark; --page: #fff; --row: #f7f9fb; --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb;
          --accent: #1d6fa5; --off: #75808c; }
  @media (prefers-color-scheme: dark) {
    :root { --page: #131218; --row: #1c1b23; --ink: #ecebf2; --muted: #a09eae; --line: #32303d; --accent: #6db3e2;
            --off: #8a8898; }
    /* Figures come painted for a light page. */
    .js-plotly-plot .main-svg { background: none !important; }
    .js-plotly-plot .bg { fill: none !important; }
    .js-plotly-plot :is(text, .point, .scatterpts)[style*="fill: rgb(31, 41, 51)"] { fill: var(--ink) !important; }
    .js-plotly-plot :is(.point, .scatterpts)[style*="stroke: rgb(31, 41, 51)"] { stroke: var(--ink) !important; }
    .js-plotly-plot .crisp[style*="stroke: rgb(228, 231, 235)"] { stroke: var(--line) !important; }
    .js-plotly-plot .hovertext text { fill: #1f2933 !important; }
  }
  body { margin: 0; color: var(--ink); background: var(--page); line-height: 1.5;
         font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
  main { max-width: 1180px; margin: 0 auto; padding: 32px 28px 64px; }
  h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; }
  h2 { font-size: 19px; margin: 44px 0 4px; padding-top: 20px; border-top: 1px solid var(--line); }
  h3 { font-size: 14px; margin: 12px 0 0; font-weight: 600; }
  h3 span { color: var(--muted); font-weight: 400; }
  p { margin: 4px 0 12px; max-width: 96ch; color: var(--muted); }
  b.name { color: var(--ink); }
  .numbers { display: flex; flex-wrap: wrap; gap: 12px 40px; margin: 18px 0 22px; }
  .numbers div { color: var(--muted); font-size: 13px; }
  .numbers b { display: block; color: var(--ink); font-size: 24px; line-height: 1.2; font-weight: 650;
               font-variant-numeric: tabular-nums; }
  .two { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 20px; }
  .wide-narrow { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 28px; align-items: center; }
  @media (max-width: 860px) { .two, .wide-narrow { grid-template-columns: minmax(0, 1fr); } }
  .scroll { overflow-x: auto; }
  .tall { overflow: auto; max-height: 820px; }
  .tall thead { position: sticky; top: 0; background: var(--page); box-shadow: 0 1px 0 var(--line); }
  @media print { .tall { max-height: none; } }
  table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; }
  th, td { padding: 5px 9px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
  th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
  th small { display: block; font-weight: 400; font-size: 12px; }
  .tall th { white-space: normal; max-width: 9ch; }
  .tall th.text, .tall th.group { max-width: none; white-space: nowrap; }
  .tall table { font-size: 12.5px; }
  .tall th, .tall td { padding: 5px 6px; }
  tbody tr:hover td { background: var(--row); }
  td.wrap { white-space: normal; min-width: 20ch; }
  td.list { white-space: normal; min-width: 21ch; max-width: 30ch; color: var(--muted); line-height: 1.35; }
  td.list.short { min-width: 14ch; max-width: 17ch; }
  th.group { text-align: center; color: var(--ink); }
  th.first, td.first { border-left: 1px solid var(--line); }
  th.text, td.text { text-align: left; }
  td.mark { text-align: center; color: var(--accent); }
  tr.landmark td:first-child { font-weight: 700; }
  td.off { color: var(--off); }
  .names { display: flex; flex-wrap: wrap; gap: 6px; margin: 8px 0; }
  .names span { border: 1px solid var(--line); border-radius: 4px; padding: 1px 7px; font-size: 13px;
                font-variant-numeric: tabular-nums; color: var(--muted); }
  .names span.alone { border-color: var(--accent); color: var(--accent); }
  footer { margin-top: 44px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--muted);
           font-size: 13px; }
  footer dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0 0 12px; }
  footer dt, footer dd { margin: 0; overflow-wrap: anywhere; }
  code { font-size: 12.5px; color: var(--ink); }
  @media (max-width: 640px) {
    main { padding: 20px 14px 40px; }
    .numbers { gap: 12px 28px; }
    .tall { max-height: 75vh; }
    footer dl { grid-template-columns: minmax(0, 1fr); }
    footer dd { margin-bottom: 8px; }
  }
"""

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
<script>
// What is painted, not styled: scenes take the page's colours, and stand back where they are narrow.
const dark = matchMedia("(prefers-color-scheme: dark)");
function repaint() {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  for (const plot of document.querySelectorAll(".scene .js-plotly-plot")) {
    const layout = { "font.color": colour("--ink") };
    for (const axis of ["xaxis", "yaxis", "zaxis"]) layout[`scene.${axis}.gridcolor`] = colour("--line");
    const far = plot.clientWidth < 420 ? 1.45 : 1;
    const eye = plot.layout.scene.camera.eye;
    plot.eye ??= { ...eye };
    for (const side of ["x", "y", "z"]) layout[`scene.camera.eye.${side}`] = plot.eye[side] * far;
    const named = [...plot.data.keys()].filter((place) => plot.data[place].text);
    const ink = { "textfont.color": colour("--ink"), "marker.color": colour("--ink") };
    if (named.length) Plotly.restyle(plot, ink, named);
    Plotly.relayout(plot, layout);
  }
}
dark.addEventListener("change", repaint);
addEventListener("load", repaint);
</script>
</body>
</html>
"""


def write_page(path: Path, body: str, *, title: str, **values: object) -> None:
    write_text(path, page_html(body, title=title, **values))


def page_html(body: str, *, title: str, **values: object) -> str:
    """body: a Jinja template of what is inside <main>, filled with `values`; text among them is escaped."""
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(HEAD + body + TAIL)
    plotly = Markup(get_plotlyjs())  # plotly's own script, not user input
    return template.render(page_title=title, plotly=plotly, **values)


def figure_html(figure: Figure, name: str, options: Mapping[str, Any] = FLAT) -> Markup:
    """For a page's body. name: of the element, one of its own on the page. options: plotly's."""
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=dict(options), div_id=name))
