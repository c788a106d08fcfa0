"""A row of a bench of policies as a person reads it, in the terminal and on the page."""

from __future__ import annotations

from benchmarks.load.interval import Mean
from benchmarks.policies_summary import Row


def table_row(row: Row) -> dict[str, str]:
    """Column by column, the same columns for every row, few enough for a terminal of 120 characters."""
    return {
        "policy": row.policy,
        "kept %": _text(row.attainment, scale=100),
        **{kind: _text(mean, scale=100, interval=False) for kind, mean in row.by_kind.items()},
        "loss": _text(row.loss, decimals=4),
        "univ %": _text(row.universal_share, scale=100, interval=False),
        "good/s": _text(row.goodput_requests_s, decimals=2, interval=False),
        "rej %": _text(row.rejected, scale=100, interval=False),
        "ttft p99": _text(row.p99["ttft"], decimals=0, interval=False),
    }


def wide_row(row: Row) -> dict[str, str]:
    """The same and more."""
    return {
        **table_row(row),
        "tpot p99": _text(row.p99["tpot"], interval=False),
        "e2e p99": _text(row.p99["e2e"], decimals=0, interval=False),
        "ttft p50": _text(row.p50["ttft"], decimals=0, interval=False),
        "tpot p50": _text(row.p50["tpot"], interval=False),
        "e2e p50": _text(row.p50["e2e"], decimals=0, interval=False),
        "good tokens/s": _text(row.goodput_tokens_s, decimals=0, interval=False),
        "tokens/s": _text(row.tokens_s, decimals=0, interval=False),
        **{f"{name} %": _text(mean, scale=100, interval=False) for name, mean in row.by_class.items()},
    }


def _text(mean: Mean | None, *, scale: float = 1.0, decimals: int = 1, interval: bool = True) -> str:
    if mean is None:
        return "–"
    return mean.text(scale=scale, decimals=decimals) if interval else f"{scale * mean.mean:.{decimals}f}"
