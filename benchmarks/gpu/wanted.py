"""The figures that are wanted of a GPU beside those that were measured, and what takes the time where one is missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.check_scale import LARGE, SMALL

Rows = Sequence[Mapping[str, Any]]


def _row(shape: str, rows: int, width: str) -> Mapping[str, tuple[object, ...]]:
    return {"shape": (shape,), "rows": (rows,), "width": (width,)}


MOST, LEAST = "at most", "at least"
WANTED: Sequence[tuple[str, str, float, str, str, Mapping[str, tuple[object, ...]]]] = (
    ("ms of a step, 1B, 1 row, XL", MOST, 1.0, "steps", "device_ms", _row(LARGE, 1, "XL")),
    ("ms of a step, 1B, 1 row, S", MOST, 0.5, "steps", "device_ms", _row(LARGE, 1, "S")),
    ("ms of a step, 1B, 32 rows, XL", MOST, 1.2, "steps", "device_ms", _row(LARGE, 32, "XL")),
    ("ms of a step, 1B, 32 rows, S", MOST, 0.7, "steps", "device_ms", _row(LARGE, 32, "S")),
    ("ms of a step, 135M, 1 row, XL", MOST, 0.5, "steps", "device_ms", _row(SMALL, 1, "XL")),
    ("times the floor, 128 rows", MOST, 3, "steps", "times_floor", {"rows": (128,)}),
    ("a mixed step over its widest", MOST, 1.1, "steps", "over_widest", {"width": ("mixed",)}),
    ("of what bytes promise, 1B", LEAST, 0.75, "steps", "kept", {"shape": (LARGE,), "width": ("L", "M", "S")}),
    ("times transformers, 1 row", LEAST, 3, "transformers", "times_ours", {"rows": (1,)}),
    ("times transformers, 32 rows", LEAST, 8, "transformers", "times_ours", {"rows": (32,)}),
    ("prompts, of the chip's rate, 1B", LEAST, 0.4, "prompts", "of_chip_rate", {"shape": (LARGE,), "width": ("XL",)}),
    ("a joint step over the plain ones", MOST, 0.85, "training", "ratio", {}),
    ("a joint step, of the chip's rate", LEAST, 0.35, "training", "of_chip_rate", {"d_model": (1_024,)}),
    ("a logit's error, bfloat16", MOST, 2e-2, "errors", "worst", {"dtype": ("bfloat16",)}),
)
"""What it is; the limit; the section and its figure; which rows it is about. All in bfloat16, 256 tokens before."""


def compared(rows: Callable[[str], Rows]) -> list[dict[str, Any]]:
    """The worst figure of each that is wanted, and of a step that is too slow what takes the excess.

    rows: of the sections of a kind; those of what failed have no figures, and a figure that is no number is None.
    """
    found = []
    for name, sense, limit, section, figure, where in WANTED:
        about = [row for row in rows(section) if figure in row and all(row.get(key) in where[key] for key in where)]
        none = math.inf if sense == MOST else -math.inf
        of_row = [(none if row[figure] is None else row[figure], place) for place, row in enumerate(about)]
        worst, place = (max if sense == MOST else min)(of_row, default=(None, 0))
        met = worst is not None and (worst <= limit if sense == MOST else worst >= limit)
        excess = "" if met or worst is None else excess_of(about[place], section, rows("alone"))
        found.append({"what": name, "wanted": f"{sense} {limit:g}", "measured": worst, "met": met, "excess": excess})
    return found


def excess_of(step: Mapping[str, Any], section: str, kernels: Rows) -> str:
    """What of a step takes the most time beyond what the card's speed allows, and beside it the next.

    kernels: of kernel_times. Nothing where it did not time such a step.
    """
    rows = {"steps": str(step.get("rows")), "prompts": "prompt", "transformers": str(step.get("rows"))}.get(section)
    width = "S" if step.get("width") == "S" else "XL"
    alike = [
        row for row in kernels if row["shape"] == step.get("shape") and row["rows"] == rows and row["width"] == width
    ]
    if not alike:
        return ""
    over = sorted(((1 - row["of_limit"]) * row["step_ms"], row["kernel"], row["step_ms"]) for row in alike)[-2:]
    step_text = f"{step['shape']}, {step['rows']} rows: " if section != "prompts" else ""
    parts = [f"{kernel} {took_ms:.3g} ms, {excess_ms:.3g} too much" for excess_ms, kernel, took_ms in over[::-1]]
    return step_text + "; ".join(parts)
