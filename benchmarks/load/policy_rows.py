"""The cells of a comparison as rows: a policy at a load, over all traces, as means over seeds with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, mean, stdev
from typing import Any

from scipy.stats import t as student

from benchmarks.load.policies_folder import CellResult, Mode
from serve.policies.budget import KINDS

SCORED = (
    *("attainment", "by_kind", "by_class", "loss", "universal_share"),
    *("goodput_requests_s", "goodput_tokens_s", "tokens_s", "p50", "p99"),
)
"""The columns of a score that are means over the seeds in a row."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds and how sure it is."""

    mean: float
    low: float | None
    """To `high`: the 95 % interval of the mean by Student's t; None of a single value."""
    high: float | None
    count: int

    def text(self, *, scale: float = 1.0, decimals: int = 1) -> str:
        """`94.2 ± 1.1`, in units of 1 / scale."""
        value = f"{scale * self.mean:.{decimals}f}"
        return value if self.high is None else f"{value} ± {scale * (self.high - self.mean):.{decimals}f}"


def mean_of(values: Sequence[float]) -> Mean | None:
    """None of no values."""
    if not values:
        return None
    middle = mean(values)
    if len(values) == 1:
        return Mean(mean=middle, low=None, high=None, count=1)
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return Mean(mean=middle, low=middle - half, high=middle + half, count=len(values))


@dataclass(frozen=True, kw_only=True)
class PolicyRow:
    """The columns of serve.simulate.attainment_score; a mean is None where no request could count for it."""

    mode: Mode
    trace: str | None
    """None for all of them, each counting alike."""
    load: float
    policy: str
    requests: int
    attainment: Mean | None
    by_kind: dict[str, Mean | None]
    by_class: dict[str, Mean | None]
    loss: Mean
    universal_share: Mean | None
    goodput_requests_s: Mean
    goodput_tokens_s: Mean
    tokens_s: Mean
    rejected: Mean
    """The share of the requests that were rejected or failed."""
    p50: dict[str, Mean | None]
    p99: dict[str, Mean | None]
    step_error: Mean | None
    """None where steps are simulated."""

    def text_columns(self) -> dict[str, str]:
        """As a person reads it: the same columns for every row, few enough for a terminal of 120 characters."""
        return {
            "policy": self.policy,
            "kept %": "–" if self.attainment is None else self.attainment.text(scale=100),
            **{kind: mean_text(kept, 1, scale=100) for kind, kept in self.by_kind.items()},
            "loss": self.loss.text(decimals=4),
            "univ %": mean_text(self.universal_share, 1, scale=100),
            "good/s": mean_text(self.goodput_requests_s, 2),
            "rej %": mean_text(self.rejected, 1, scale=100),
            "ttft p99": mean_text(self.p99["ttft"], 0),
        }

    def more_text_columns(self) -> dict[str, str]:
        latencies = {"p99": self.p99, "p50": self.p50}
        return {
            "policy": self.policy,
            **{
                f"{kind} {name}": mean_text(by_kind[kind], 1 if kind == "tpot" else 0)
                for name, by_kind in latencies.items()
                for kind in KINDS
            },
            "good tokens/s": mean_text(self.goodput_tokens_s, 0),
            "tokens/s": mean_text(self.tokens_s, 0),
            **{f"{name} %": mean_text(kept, 1, scale=100) for name, kept in self.by_class.items()},
        }


def mean_text(value: Mean | None, decimals: int, *, scale: float = 1.0) -> str:
    """Without its interval."""
    return "–" if value is None else f"{scale * value.mean:.{decimals}f}"


def rows_of(cells: Sequence[CellResult], *, by_trace: bool = False) -> list[PolicyRow]:
    """In the order in which modes, loads (and traces) and policies first occur."""
    groups: dict[tuple[Mode, float, str | None, str], list[CellResult]] = {}
    for result in cells:
        cell = result.cell
        key = (cell.mode, cell.load, cell.trace if by_trace else None, cell.policy)
        groups.setdefault(key, []).append(result)
    return [_row(*key, group) for key, group in sorted(groups.items(), key=lambda item: item[0][:2])]


def _row(mode: Mode, load: float, trace: str | None, policy: str, cells: Sequence[CellResult]) -> PolicyRow:
    means: dict[str, Any] = {name: _column(cells, name) for name in SCORED}
    means["rejected"] = _seed_mean(
        cells, lambda result: (result.score.rejected + result.score.failed) / max(1, result.score.requests)
    )
    means["step_error"] = _seed_mean(cells, lambda result: result.step_error)
    requests = sum(result.score.requests for result in cells)
    return PolicyRow(mode=mode, trace=trace, load=load, policy=policy, requests=requests, **means)


def _column(cells: Sequence[CellResult], name: str) -> Mean | dict[str, Mean | None] | None:
    """The mean of a score's column; where the column is several by name, of each."""
    columns = [getattr(result.score, name) for result in cells]
    if not isinstance(columns[0], Mapping):
        return _seed_mean(cells, lambda result: getattr(result.score, name))

    def part(key: str) -> Mean | None:
        return _seed_mean(cells, lambda result: getattr(result.score, name).get(key))

    return {key: part(key) for key in dict.fromkeys(key for column in columns for key in column)}


def _seed_mean(cells: Iterable[CellResult], value: Callable[[CellResult], float | None]) -> Mean | None:
    """Of each seed the mean over its traces, then over the seeds: traces are chosen, only seeds are drawn."""
    by_seed: dict[int, list[float]] = {}
    for result in cells:
        number = value(result)
        if number is not None:
            by_seed.setdefault(result.cell.seed, []).append(number)
    return mean_of([fmean(values) for values in by_seed.values()])
