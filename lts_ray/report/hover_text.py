"""What a candidate says when the mouse is on it."""

from __future__ import annotations

import html
from textwrap import wrap

from lts_ray.measurement.latency import Latency
from lts_ray.report.quality_scale import perplexity_text
from lts_ray.report.report_data import ReportData, Shown

WRAP = 56
"""Characters to a line of a hover text: fifteen layers' lists are longer than a figure is wide."""


def hover_text(data: ReportData, candidate: Shown, target: str | None = None) -> str:
    """Name, what it is, quality and size; with a target, also what it costs there. Plotly reads it as HTML."""
    name = [] if candidate.name is None else [f"<b>{html.escape(candidate.name)}</b>"]
    description = wrap(candidate.description, WRAP, break_long_words=False, break_on_hyphens=False)
    lines = [*name, *map(html.escape, description), *_quality(data, candidate)]
    if target is not None:
        measured = candidate.measured[target]
        lines += [
            f"prefill {_latency(measured.prefill, 2)}",
            *([f"decode {_latency(measured.decode, 3)}"] if measured.decode is not None else []),
            f"memory {measured.cost.peak_memory_mb:,.1f} MB",
            *(["<i>unsteady</i>"] if measured.is_unsteady else []),
        ]
    return "<br>".join(lines)


def _quality(data: ReportData, candidate: Shown) -> list[str]:
    params = f"{candidate.decoder_params:,} {data.stacks} parameters"
    if not data.scale.is_loss:
        return [params]
    return [f"{data.scale.word} {candidate.loss:.4f}, perplexity {perplexity_text(candidate.loss)}", params]


def _latency(latency: Latency, decimals: int) -> str:
    """With its interval, unless a single time was taken."""
    low, high = latency.interval_ms
    interval = "" if low == high else f" ({low:.{decimals}f} – {high:.{decimals}f})"
    return f"{latency.value_ms:.{decimals}f} ms{interval}"
