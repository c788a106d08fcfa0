"""What a policy's outcomes are worth: budgets kept, quality, throughput of what was in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve.policies.budget import KINDS, Timing
from serve.simulate.request_outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class AttainmentScore:
    """One load under one policy. A share of nothing is None. What was rejected or failed missed all its bounds."""

    requests: int
    rejected: int
    failed: int
    attainment: float | None
    """The share of the requests with a budget that kept all of its bounds."""
    by_kind: Mapping[str, float | None]
    """Of the requests that have a bound of the kind, the share that kept it."""
    by_class: Mapping[str, float | None]
    """As attainment, of the class's requests."""
    loss: float
    """Mean over all tokens that were asked for, of the submodels that made them; tokens that never came count at the
    narrowest submodel's."""
    universal_share: float | None
    """Of the tokens that came, those of the universal model."""
    goodput_requests_s: float
    """Requests that met their budgets, or had none and were answered, over the time until the last answer."""
    goodput_tokens_s: float
    """Their tokens."""
    tokens_s: float
    """All tokens."""
    p50: Mapping[str, float | None]
    """Milliseconds by kind, of the requests that were answered, whatever they asked for."""
    p99: Mapping[str, float | None]


def score(
    outcomes: Sequence[Outcome], *, losses: Mapping[str, float], narrowest: str, universal: str, seconds: float
) -> AttainmentScore:
    """losses: measured, by submodel. seconds: for which requests came."""
    with_budget = [outcome for outcome in outcomes if outcome.budget]
    done = [outcome for outcome in outcomes if outcome.timing is not None]
    good = [outcome for outcome in done if outcome.met]
    timings = [outcome.timing for outcome in done if outcome.timing is not None]
    elapsed_s = max([seconds, *(outcome.end_ms / 1e3 for outcome in done)])
    made = sum(_tokens(outcome) for outcome in outcomes)
    classes = dict.fromkeys(outcome.arrival.klass for outcome in with_budget)
    return AttainmentScore(
        requests=len(outcomes),
        rejected=sum(outcome.status == "rejected" for outcome in outcomes),
        failed=sum(outcome.status == "failed" for outcome in outcomes),
        attainment=_share([outcome.met for outcome in with_budget]),
        by_kind={kind: _share([outcome.met_kind(kind) for outcome in with_budget]) for kind in KINDS},
        by_class={
            klass: _share([outcome.met for outcome in with_budget if outcome.arrival.klass == klass])
            for klass in sorted(classes)
        },
        loss=mean_loss(outcomes, losses=losses, narrowest=narrowest),
        universal_share=sum(outcome.submodels.get(universal, 0) for outcome in outcomes) / made if made else None,
        goodput_requests_s=len(good) / elapsed_s,
        goodput_tokens_s=sum(_tokens(outcome) for outcome in good) / elapsed_s,
        tokens_s=made / elapsed_s,
        p50=_percentiles(timings, 50),
        p99=_percentiles(timings, 99),
    )


def mean_loss(outcomes: Sequence[Outcome], *, losses: Mapping[str, float], narrowest: str) -> float:
    """Per token that was asked for. A policy must not look better for refusing what it would have served narrowly."""
    total = tokens = 0.0
    for outcome in outcomes:
        its_total, its_tokens = loss_of(outcome, losses=losses, narrowest=narrowest)
        total += its_total
        tokens += its_tokens
    return total / tokens if tokens else losses[narrowest]


def loss_of(outcome: Outcome, *, losses: Mapping[str, float], narrowest: str) -> tuple[float, int]:
    """The sum over all tokens that the request asked for, those that never came too, and how many these are."""
    made = _tokens(outcome)
    missing = max(0, outcome.arrival.output_tokens - made)
    total = sum(count * losses[name] for name, count in outcome.submodels.items())
    return total + missing * losses[narrowest], made + missing


def _tokens(outcome: Outcome) -> int:
    return sum(outcome.submodels.values())


def _share(met: Sequence[bool | None]) -> float | None:
    """Of those that have the bound at all."""
    known = [held for held in met if held is not None]
    return sum(known) / len(known) if known else None


def _percentiles(timings: Sequence[Timing], percent: float) -> dict[str, float | None]:
    return {
        kind: float(np.percentile([getattr(timing, f"{kind}_ms") for timing in timings], percent)) if timings else None
        for kind in KINDS
    }
