"""The report's page. Light, one column, system fonts; tables scroll on their own where they are wider than the page."""

from __future__ import annotations

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>lts-ray search report</title>
<style>
  :root { --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb; --accent: #1d6fa5; }
  body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5;
         font: 15px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
  main { max-width: 1180px; margin: 0 auto; padding: 32px 28px 64px; }
  h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; }
  h2 { font-size: 18px; margin: 36px 0 4px; }
  p { margin: 4px 0 12px; max-width: 92ch; color: var(--muted); }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; width: 100%; }
  th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
  th { color: var(--muted); font-weight: 600; }
  td.wrap { white-space: normal; }
  th.group { text-align: center; color: var(--ink); }
  th.text, td.text { text-align: left; }
  tr.trained td:first-child { font-weight: 700; }
  td.off { color: #9aa5b1; }
  footer { margin-top: 40px; color: var(--muted); font-size: 13px; }
  code { font-size: 12.5px; }
</style>
<script>{{ plotly }}</script>
</head>
<body>
<main>
<h1>Search report</h1>
<p>{{ data.evaluated | length }} submodels of one universal model were evaluated in the space {{ data.space }}
(seed {{ data.seed }}){% if data.failed %}; {{ data.failed }} more failed{% endif %}{% if data.exhausted %}; the space
has no others{% endif %}. {{ data.frontier.points | length }} are kept in the frontier: those that no other one beats in
loss, latency and memory on some target, and the trained granularities
{{ data.granularities.values() | join(", ") }}.</p>
<div class="scroll"><table>
<tr><th class="text">target</th><th class="text">where</th><th class="text">measured as</th><th>front</th>
<th>prefill, ms</th><th>decode, ms per token</th><th>hypervolume</th><th>unsteady</th><th>model error</th></tr>
{% for each in findings %}
<tr><td class="text"><b>{{ each.name }}</b></td><td class="text">{{ each.where }}</td>
<td class="text wrap">{{ each.setup }}</td><td>{{ each.points }} points</td><td>{{ each.prefill }}</td>
<td>{{ each.decode }}</td><td>{{ each.hypervolume }}</td><td>{{ each.unsteady }}</td><td>{{ each.error }}</td></tr>
{% endfor %}
</table></div>
{% for name, figure in fronts.items() %}
<h2>{{ name }}</h2>
<p>Lower left is better. Coloured points are on the front of loss, latency and memory; the line joins those that lead
in this plot's two dimensions alone.</p>
{{ figure }}
{% endfor %}
<h2>How the search went</h2>
<p>Hypervolume: how much of the box between the cheapest and the best trained granularity the candidates found so far
dominate. Past 1 where a candidate beats their measured latency.</p>
{{ hypervolume }}
<h2>The frontier</h2>
<p>Best quality first. Grey costs: not on that target's front, kept for another target or as a trained granularity.
Loss is in nats per token; latencies are medians.</p>
<div class="scroll"><table>
<tr><th class="text" colspan="5"></th>
{% for name in data.frontier.targets %}<th class="group" colspan="3">{{ name }}</th>{% endfor %}</tr>
<tr><th class="text">name</th><th class="text">widths</th><th>decoder params</th><th>loss</th><th>perplexity</th>
{% for name in data.frontier.targets %}<th>prefill, ms</th><th>decode, ms</th><th>memory, MB</th>{% endfor %}</tr>
{% for row in rows %}
<tr{% if row.trained %} class="trained"{% endif %}><td class="text">{{ row.point.name }}</td>
<td class="text">{{ row.point.submodel.widths | join(" · ") }}</td>
<td>{{ "{:,}".format(row.point.decoder_params) }}</td>
<td>{{ row.loss }}</td><td>{{ row.perplexity }}</td>
{% for cost in row.costs %}
{% set off = "" if cost.on_front else " class=off" %}
<td{{ off }}>{{ cost.prefill }}</td><td{{ off }}>{{ cost.decode }}</td><td{{ off }}>{{ cost.memory }}</td>
{% endfor %}</tr>
{% endfor %}
</table></div>
<footer>Model fingerprint <code>{{ data.frontier.model_fingerprint }}</code>. Unsteady: submodels with a
latency whose interquartile range is above a quarter of its median, a sign that something else ran on the machine.
Model error: the step-cost model's median relative error on the steps it was fitted to.
Raw times of every measurement: evaluations.jsonl.</footer>
</main>
</body>
</html>
"""
