"""What a search's report says, as a Jinja template of the page's body."""

BODY = """\
{% set several = data.targets | length > 1 %}
<h1>Search report</h1>
<p>What {{ data.noun }} of the space <b class="name">{{ data.space }}</b> cost on
{{ data.targets | map(attribute="name") | join(", ") }}, searched by <b class="name">{{ data.settings.algorithm }}</b>
with seed {{ data.settings.seed }}. Kept are those that no other one beats in {{ dimensions }} on some target
{%- if several %} or on all targets at once{% endif %}
{%- if data.points | selectattr("is_landmark") | list %}, and the trained granularities{% endif %}.</p>
{% if doubtful %}
<p><b class="name">Unsteady: every one of the {{ data.noun }} measured on {{ doubtful | join(", ") }}</b>;
{{ unsteady_means }}.</p>
{% endif %}
<div class="numbers">
<div><b>{{ data.evaluated | length }}</b>evaluated
{%- if data.evaluated | length + data.failed < data.settings.evaluations and not data.exhausted %}
 of {{ data.settings.evaluations }}{% endif %}
{%- if data.exhausted %}, all there are{% endif %}</div>
{% if data.failed %}<div><b>{{ data.failed }}</b>failed</div>{% endif %}
<div><b>{{ data.points | length }}</b>kept</div>
{% for finding in findings %}<div><b>{{ finding.points }}</b>on the front of {{ finding.name }}</div>{% endfor %}
{% if several %}<div><b>{{ data.joint | length }}</b>on the joint front</div>{% endif %}
</div>
<div class="scroll"><table>
<thead><tr><th class="text">target</th><th class="text">where</th><th class="text">measured as</th>
<th>front</th><th>prefill, ms</th>{% if data.can_decode %}<th>decode, ms per token</th>{% endif %}

<th>memory, MB</th><th>hypervolume</th></tr></thead>
<tbody>
{% for finding in findings %}
<tr><td class="text"><b>{{ finding.name }}</b></td><td class="text">{{ finding.where }}</td>
<td class="text wrap">{{ finding.setup }}</td><td>{{ finding.points }} points</td>
<td>{{ finding.spans.prefill_ms }}</td>
{% if data.can_decode %}<td>{{ finding.spans.decode_ms }}</td>{% endif %}

<td>{{ finding.spans.peak_memory_mb }}</td><td>{{ finding.hypervolume }}</td></tr>
{% endfor %}
</tbody></table></div>
{% for finding in findings %}
<h2>{{ finding.name }}</h2>
<p>{{ "Lower" if data.scale.is_loss else "Upper" }} left is better. Coloured points are on the front of
{{ dimensions }}
{%- if data.precisions | length > 1 %}, their shape is their precision{% endif %}; the line
joins those that lead in a plot's two dimensions alone.</p>
{% set figures = fronts[loop.index0] %}
{% if figures | length > 1 %}<div class="two">{% endif %}
{% for figure in figures %}<div>{{ figure }}</div>{% endfor %}
{% if figures | length > 1 %}</div>{% endif %}

<div class="two">
<div class="scene"><h3>In three dimensions <span>· drag to turn</span></h3>{{ scenes[loop.index0] }}</div>
<div><h3>Hypervolume {{ finding.hypervolume }} <span>· and after finding evaluation</span></h3>
{{ curves[loop.index0] }}</div>
</div>
{% endfor %}
<p>Hypervolume: how much of a box in {{ dimensions }} the candidates found so far dominate, for all searches of a plot
the same box: what the space's seeds span, or, where it has none that were evaluated, everything that was. It passes 1
where a candidate beats the box.</p>
{% if proxy %}
<h2>Decoder parameters against the measured loss</h2>
<p>Whether counting parameters, which takes no training, would have told the better {{ data.noun }}: over the
{{ data.proxy.count }} that this search evaluated
{%- if data.precisions %} in {{ data.precisions[0] }}{% endif %}, which lean
towards its fronts and are no random sample.</p>
<div class="wide-narrow">
<div>{{ proxy }}</div>
<table><tbody>
{% for name, value, meaning in agreement %}
<tr><td class="text wrap">{{ name }}<br><span style="color: var(--muted)">{{ meaning }}</span></td>
<td><b>{{ value }}</b></td></tr>
{% endfor %}
</tbody></table>
</div>
{% endif %}
{% if several %}
<h2>The joint front</h2>
<p>{{ data.joint | length }} {{ data.noun }} lead when the costs on all targets count at once.
{% set alone = data.joint | rejectattr("fronts") | list | length %}
{% if alone %}{{ alone }} of them, outlined in blue, {{ "is" if alone == 1 else "are" }} on no single target's front:
compromises.{% else %}Each of them is on some target's own front as well.{% endif %}</p>
<div class="names">
{% for point in data.joint %}<span{% if not point.fronts %} class="alone"{% endif %}>{{ point.name }}</span>{% endfor %}
</div>
{% endif %}
<h2>The {{ data.noun }} kept</h2>
<p>Best quality first. Grey costs: not on that target's front. ?: unsteady, see below.
{%- if several %} A dot: on the joint front.{% endif %}
{%- if data.scale.is_loss %} {{ data.scale.word | capitalize }} in nats per token.{% endif %}
 Latencies are
{%- if data.is_pooled %} pooled from the medians of all {{ data.noun }}, each with what it has of its own:
{%- else %} medians:{% endif %} prefill of the target's batch
{%- if data.can_decode %}, decode of one more token.{% else %}. An encoder has no decode step.{% endif %}</p>
<div class="tall"><table>
<thead>
<tr><th class="text" colspan="{{ 2 + several + parts | length + 2 * data.scale.is_loss }}"></th>
{% for target in data.targets %}
<th class="group first" colspan="{{ 2 + data.can_decode }}">{{ target.name }}</th>{% endfor %}</tr>
<tr><th class="text">name</th>{% if several %}<th>joint</th>{% endif %}
{% for part in parts %}<th{% if part not in ("layers", "d_model") %} class="text"{% endif %}>{{ part }}</th>{% endfor %}
<th>{{ data.stacks }} params</th>
{% if data.scale.is_loss %}<th>{{ data.scale.word }}</th><th>perplexity</th>{% endif %}
{% for target in data.targets %}
<th class="first">prefill<small>ms</small></th>
{%- if data.can_decode %}<th>decode<small>ms</small></th>{% endif %}<th>memory<small>MB</small></th>
{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr{% if row.point.is_landmark %} class="landmark"{% endif %}><td class="text">{{ row.point.name }}</td>
{% if several %}<td class="mark">{{ "●" if row.point.is_joint }}</td>{% endif %}
{% for part, text in row.point.parts.items() %}
<td{% if part == "heads" %} class="text list short"{% elif part not in ("layers", "d_model") %} class="text list"
{%- endif %}>{{ text }}</td>
{% endfor %}
<td>{{ "{:,}".format(row.point.decoder_params) }}</td>
{% if data.scale.is_loss %}<td>{{ row.loss }}</td><td>{{ row.perplexity }}</td>{% endif %}
{% for cost in row.costs %}
<td class="{{ "first" if cost.first }}{{ "" if cost.on_front else " off" }}">
{{- "? " if cost.unsteady }}{{ cost.text }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<h2>How steady</h2>
<p>Unsteady: {{ data.noun }} with a latency whose 95 % interval is wider than 15 % of it, or that was measured
while the node stayed more than 15 % slower than it can be: distrust these. Worst slowdown: the slowest moment
that a reference step saw; times are corrected for it, and the worst are taken again.</p>
<div class="scroll"><table style="width: auto">
<thead><tr><th class="text">target</th><th>unsteady</th><th>worst slowdown</th></tr></thead>
<tbody>
{% for finding in findings %}
<tr><td class="text"><b>{{ finding.name }}</b></td><td>{{ finding.unsteady }}</td><td>{{ finding.slowdown }}</td></tr>
{% endfor %}
</tbody></table></div>
<footer>
<dl>
<dt><code>{{ log }}</code></dt><dd>every evaluation, with the raw times</dd>
<dt><code>{{ data.file_name }}</code></dt><dd>the {{ data.noun }} kept, for programs</dd>
<dt><code>{{ journal }}</code></dt><dd>the trials, a study for each target; look at them with
<code>optuna-dashboard {{ journal }}</code></dd>
{% for key, value in data.subject.items() %}<dt>{{ key }}</dt><dd><code>{{ value }}</code></dd>
{% endfor %}
</dl>
</footer>
"""
