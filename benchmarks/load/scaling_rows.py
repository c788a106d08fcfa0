"""The table of autoscalers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

WANTED = 0.99
"""The share of budgets to keep."""


def rows_of(cells: Sequence[Mapping[str, Any]], universal_loss: float) -> list[dict[str, Any]]:
    """Means over seeds, by trace and autoscaler; and how much less attainment's costs than the peer's, if that keeps
    what is wanted."""
    found: list[dict[str, Any]] = []
    for trace, word in dict.fromkeys((cell["trace"], cell["autoscaler"]) for cell in cells):
        mine = [cell for cell in cells if (cell["trace"], cell["autoscaler"]) == (trace, word)]
        mean = partial(np.mean, axis=0)
        found.append(
            {
                "trace": trace,
                "autoscaler": word,
                "kept %": 100 * float(mean([cell["score"]["attainment"] for cell in mine])),
                "loss %": 100 * float(mean([cell["score"]["loss"] for cell in mine]) / universal_loss - 1),
                "cost": float(mean([cell["cost"] for cell in mine])),
                "replica-hours": float(mean([sum(cell["replica_hours"].values()) for cell in mine])),
                "decisions": float(mean([len(cell["decisions"]) for cell in mine])),
            }
        )
    ours = {row["trace"]: row["cost"] for row in found if row["autoscaler"] == "attainment"}
    for row in found:
        less = 100 * (1 - ours[row["trace"]] / row["cost"]) if row["trace"] in ours else None
        row["attainment costs less %"] = less if row["kept %"] >= 100 * WANTED else None
    return found
