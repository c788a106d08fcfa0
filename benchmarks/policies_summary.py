"""A bench's cells as rows: a policy at a load, over all traces, as means over seeds with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.load.interval import Mean, mean_of
from benchmarks.policies_folder import CellResult
from benchmarks.policies_settings import Mode
from serve.simulate.attainment_score import AttainmentScore


@dataclass(frozen=True, kw_only=True)
class Row:
    """trace: None for all of them, each counting alike. A mean is None where no request could count for it.

    rejected: share of the requests; failed too. step_error: median over cells, None where steps are simulated.
    """

    mode: Mode
    trace: str | None
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
    p50: dict[str, Mean | None]
    p99: dict[str, Mean | None]
    step_error: Mean | None

    def to_json(self) -> dict[str, Any]:
        return {name: _json(getattr(self, name)) for name in Row.__dataclass_fields__}


def rows_of(cells: Sequence[CellResult], *, by_trace: bool = False) -> list[Row]:
    """In the order in which modes, loads (and traces) and policies first occur."""
    groups: dict[tuple[Mode, float, str | None, str], list[CellResult]] = {}
    for each in cells:
        cell = each.cell
        key = (cell.mode, cell.load, cell.trace if by_trace else None, cell.policy)
        groups.setdefault(key, []).append(each)
    return [_row(*key, each) for key, each in sorted(groups.items(), key=lambda item: item[0][:2])]


def _row(mode: Mode, load: float, trace: str | None, policy: str, cells: Sequence[CellResult]) -> Row:
    def over_seeds(value: Callable[[AttainmentScore], float | None]) -> Mean | None:
        return seed_mean(cells, lambda each: value(each.score))

    def sure(value: Callable[[AttainmentScore], float]) -> Mean:
        found = over_seeds(value)
        assert found is not None
        return found

    def by_name(part: Callable[[AttainmentScore], Mapping[str, float | None]]) -> dict[str, Mean | None]:
        def one(name: str) -> Mean | None:
            return over_seeds(lambda score: part(score).get(name))

        return {name: one(name) for name in dict.fromkeys(name for each in cells for name in part(each.score))}

    return Row(
        mode=mode,
        trace=trace,
        load=load,
        policy=policy,
        requests=sum(each.score.requests for each in cells),
        attainment=over_seeds(lambda score: score.attainment),
        by_kind=by_name(lambda score: score.by_kind),
        by_class=by_name(lambda score: score.by_class),
        loss=sure(lambda score: score.loss),
        universal_share=over_seeds(lambda score: score.universal_share),
        goodput_requests_s=sure(lambda score: score.goodput_requests_s),
        goodput_tokens_s=sure(lambda score: score.goodput_tokens_s),
        tokens_s=sure(lambda score: score.tokens_s),
        rejected=sure(lambda score: (score.rejected + score.failed) / max(1, score.requests)),
        p50=by_name(lambda score: score.p50),
        p99=by_name(lambda score: score.p99),
        step_error=seed_mean(cells, lambda each: each.step_error),
    )


def seed_mean(cells: Iterable[CellResult], value: Callable[[CellResult], float | None]) -> Mean | None:
    """Of each seed the mean over its traces, then over the seeds: traces are chosen, only seeds are drawn."""
    by_seed: dict[int, list[float]] = {}
    for each in cells:
        found = value(each)
        if found is not None:
            by_seed.setdefault(each.cell.seed, []).append(found)
    return mean_of([fmean(values) for values in by_seed.values()])


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    return value.to_json() if isinstance(value, Mean) else value
