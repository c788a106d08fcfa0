"""matformer.html: what `python -m benchmarks.matformer` found, one self-contained file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.matformer import Result, ScaleResult
from benchmarks.matformer_plot import matformer_figure
from lts_ray.report.page import figure_html, write_page

BODY = """<h1>One nested training beside four plain ones</h1>
<p>A universal model and a plain model of each granularity's width, trained on the same batches for the same steps.
Lines join the granularities; a Mix'n'Match submodel on or under the line costs nothing beside them.</p>
{% for each in scales %}
<h2>{{ each.name }}</h2>
<p>{{ each.setup }}</p>
<div class="numbers">
{% for name, value in each.differences %}
<div><b>{{ value }}</b>{{ name }} against its plain twin</div>
{% endfor %}
<div><b>{{ each.under }}</b>least-slope mixes on or under the line</div>
<div><b>{{ each.ratio }}</b>of the four plain trainings' time</div>
</div>
{{ each.figure }}
{% endfor %}
<footer>{{ machine }}</footer>
"""


def write_matformer_page(result: Result, path: Path) -> None:
    machine = result.machine
    write_page(
        path,
        BODY,
        title="python -m benchmarks.matformer",
        scales=[_section(each) for each in result.scales],
        machine=f"{machine.gpu or machine.cpu}, {machine.cores} cores, torch {machine.torch}, seed {result.seed}",
    )


def _section(each: ScaleResult) -> dict[str, Any]:
    model, training, quality = each.scale.model, each.scale.training, each.quality
    return {
        "name": each.scale.name,
        "setup": f"{model.n_layer} layers, d_model {model.d_model}, d_ff {model.d_ff}; {training.steps:,} steps of "
        f"{training.batch_size} × {training.sequence_length} tokens; {quality.tokens:,} held-out tokens",
        "differences": [(twins.name, f"{100 * twins.relative_difference:+.2f} %") for twins in quality.twins],
        "under": f"{quality.under_the_line} of {len(quality.between)}",
        "ratio": f"{each.time_ratio:.2f}",
        "figure": figure_html(matformer_figure(quality), f"matformer-{each.scale.name}"),
    }
