"""What a candidate says when the mouse is on it."""

from __future__ import annotations

import html

from lts_ray.report.quality_scale import perplexity_text
from lts_ray.report.report_data import ReportData, Shown

WRAP = 56
"""Characters to a line of a hover text: fifteen layers' lists are longer than a figure is wide."""


def hover_text(data: ReportData, candidate: Shown, target: str | None = None) -> str:
    """Name, what it is, quality and size; with a target, also what it costs there. Plotly reads it as HTML."""
    name = [] if candidate.name is None else [f"<b>{html.escape(candidate.name)}</b>"]
    lines = [*name, *_wrapped(candidate.description), *_quality(data, candidate)]
    if target is not None:
        measured = candidate.measured[target]
        cost = measured.cost
        decode = "" if cost.decode_ms is None else f"decode {cost.decode_ms:.3f} ms"
        lines += [
            f"prefill {cost.prefill_ms:.2f} ms{_interval(measured.prefill_interval_ms, 2)}",
            *([f"{decode}{_interval(measured.decode_interval_ms, 3)}"] if decode else []),
            f"memory {cost.peak_memory_mb:,.1f} MB",
            *(["<i>unsteady</i>"] if measured.is_unsteady else []),
        ]
    return "<br>".join(lines)


def _quality(data: ReportData, candidate: Shown) -> list[str]:
    params = f"{candidate.decoder_params:,} {data.stacks} parameters"
    if not data.scale.is_loss:
        return [params]
    return [f"{data.scale.word} {candidate.loss:.4f}, perplexity {perplexity_text(candidate.loss)}", params]


def _interval(interval_ms: tuple[float, float] | None, decimals: int) -> str:
    """Nothing where a single time was taken, or none."""
    if interval_ms is None:
        return ""
    low, high = interval_ms
    return "" if low == high else f" ({low:.{decimals}f} – {high:.{decimals}f})"


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        fits = len(lines[-1]) + 1 + len(word) <= WRAP
        if fits and lines[-1]:
            lines[-1] += f" {word}"
        elif lines[-1]:
            lines.append(word)
        else:
            lines[-1] = word
    return [html.escape(line) for line in lines]
