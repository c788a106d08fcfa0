"""scaling.html: what `python -m benchmarks.scaling` found, one self-contained file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.scaling import KindFit, Result
from benchmarks.scaling_plot import scaling_figure
from lts_ray.report.page import figure_html, write_page

BODY = """<h1>How the loss falls with size</h1>
<p>One universal model and a plain model of each granularity's width at each size, and the law
loss = a · N<sup>b</sup> + c that fits them best; N counts parameters without embeddings.</p>
{{ figure }}
<h2>The laws</h2>
<p>Three numbers from few points are loosely known: beside b and c is what they are when one of the sizes is left out.
Compare laws by their losses at one N, not by a, b and c.</p>
<div class="scroll"><table>
<thead><tr><th class="text">models</th><th class="text">law</th><th>b, a size left out</th><th>c, a size left out</th>
<th>rms<small>nats</small></th><th>points</th></tr></thead>
<tbody>
{% for row in laws %}
<tr{% if row.is_all %} class="landmark"{% endif %}><td class="text">{{ row.name }}</td>
<td class="text">{{ row.a }} · N<sup>{{ row.b }}</sup> + {{ row.c }}</td><td>{{ row.b_spread }}</td>
<td>{{ row.c_spread }}</td><td>{{ row.rms }}</td>
<td>{{ row.points }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if gaps %}
<h2>The gap</h2>
<p>The universal model's loss above the plain one's of as many parameters, in nats; negative where it is better.</p>
<div class="scroll"><table style="width: auto">
<thead><tr><th class="text">granularity</th>{% for size in sizes %}<th>d_model {{ size }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, values in gaps %}
<tr><td class="text">{{ name }}</td>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
<h2>The trainings</h2>
<div class="tall"><table>
<thead><tr><th class="text">models</th><th>d_model</th><th>parameters</th><th>tokens</th><th>loss</th></tr></thead>
<tbody>
{% for point in points %}
<tr><td class="text">{{ point.kind }} {{ point.granularity }}</td><td>{{ point.d_model }}</td>
<td>{{ "{:,}".format(point.params) }}</td><td>{{ "{:,}".format(point.tokens) }}</td>
<td>{{ "%.4f" | format(point.loss) }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if machine %}
<footer>{{ machine.gpu or machine.cpu }}, {{ machine.cores }} cores, torch {{ machine.torch }}</footer>
{% endif %}
"""


def write_scaling_page(result: Result, path: Path) -> None:
    sizes = sorted({each.d_model for each in result.gaps})
    write_page(
        path,
        BODY,
        title="python -m benchmarks.scaling",
        figure=figure_html(scaling_figure(result), "scaling"),
        laws=[_law(each) for each in result.fits],
        sizes=sizes,
        gaps=_gaps(result, sizes),
        points=result.points,
        machine=result.machine,
    )


def _law(each: KindFit) -> dict[str, Any]:
    low_b, high_b = each.fit.spread(lambda law: law.b)
    low_c, high_c = each.fit.spread(lambda law: law.c)
    return {
        "name": each.name,
        "is_all": each.granularity is None,
        "a": f"{each.fit.law.a:.4g}",
        "b": f"{each.fit.law.b:.4f}",
        "c": f"{each.fit.law.c:.3f}",
        "b_spread": f"{low_b:.3f} to {high_b:.3f}",
        "c_spread": f"{low_c:.3f} to {high_c:.3f}",
        "rms": f"{each.fit.rms:.4f}",
        "points": each.fit.points,
    }


def _gaps(result: Result, sizes: list[int]) -> list[tuple[str, list[str]]]:
    found = {(each.granularity, each.d_model): f"{each.nats:+.4f}" for each in result.gaps}
    names = dict.fromkeys(each.granularity for each in result.gaps)
    return [(name, [found.get((name, size), "–") for size in sizes]) for name in names]
