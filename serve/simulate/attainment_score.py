"""What a policy's outcomes are worth: budgets kept, quality, throughput of what was in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve.policies.budget import KINDS, Timing
from serve.simulate.request_outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class AttainmentScore:
    """One load under one policy. A share of nothing is None.

    attainment: share of the requests with a budget all of whose bounds held; by_kind: of those that have a bound of the
    kind; by_class: of the class. What was rejected or failed missed all its bounds.
    loss: mean over all tokens that were asked for, of the submodels that made them; tokens that never came count at the
    narrowest submodel's. universal_share: of the tokens that came.
    goodput_*: of requests that met their budgets or had none and were answered, over the time until the last answer.
    p50, p99: milliseconds by kind, of the requests that were answered, whatever they asked for.
    """

    requests: int
    rejected: int
    failed: int
    attainment: float | None
    by_kind: Mapping[str, float | None]
    by_class: Mapping[str, float | None]
    loss: float
    universal_share: float | None
    goodput_requests_s: float
    goodput_tokens_s: float
    tokens_s: float
    p50: Mapping[str, float | None]
    p99: Mapping[str, float | None]


def score(
    outcomes: Sequence[Outcome], *, losses: Mapping[str, float], narrowest: str, universal: str, seconds: float
) -> AttainmentScore:
    """losses: measured, by submodel. seconds: for which requests came."""
    with_budget = [each for each in outcomes if each.budget]
    done = [each for each in outcomes if each.timing is not None]
    good = [each for each in done if each.met]
    timings = [each.timing for each in done if each.timing is not None]
    elapsed_s = max([seconds, *(each.end_ms / 1e3 for each in done)])
    made = sum(_tokens(each) for each in outcomes)
    classes = dict.fromkeys(each.arrival.klass for each in with_budget)
    return AttainmentScore(
        requests=len(outcomes),
        rejected=sum(each.status == "rejected" for each in outcomes),
        failed=sum(each.status == "failed" for each in outcomes),
        attainment=_share([each.met for each in with_budget]),
        by_kind={
            kind: _share([met for each in with_budget if (met := each.met_kind(kind)) is not None]) for kind in KINDS
        },
        by_class={
            klass: _share([each.met for each in with_budget if each.arrival.klass == klass])
            for klass in sorted(classes)
        },
        loss=mean_loss(outcomes, losses=losses, narrowest=narrowest),
        universal_share=sum(each.submodels.get(universal, 0) for each in outcomes) / made if made else None,
        goodput_requests_s=len(good) / elapsed_s,
        goodput_tokens_s=sum(_tokens(each) for each in good) / elapsed_s,
        tokens_s=made / elapsed_s,
        p50=_percentiles(timings, 50),
        p99=_percentiles(timings, 99),
    )


def mean_loss(outcomes: Sequence[Outcome], *, losses: Mapping[str, float], narrowest: str) -> float:
    """Per token that was asked for. A policy must not look better for refusing what it would have served narrowly."""
    total = tokens = 0.0
    for each in outcomes:
        total += sum(count * losses[name] for name, count in each.submodels.items())
        missing = max(0, each.arrival.output_tokens - _tokens(each))
        total += missing * losses[narrowest]
        tokens += _tokens(each) + missing
    return total / tokens if tokens else losses[narrowest]


def _tokens(each: Outcome) -> int:
    return sum(each.submodels.values())


def _share(met: Sequence[bool]) -> float | None:
    return sum(met) / len(met) if met else None


def _percentiles(timings: Sequence[Timing], percent: float) -> dict[str, float | None]:
    return {
        kind: float(np.percentile([getattr(each, f"{kind}_ms") for each in timings], percent)) if timings else None
        for kind in KINDS
    }
