from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import pytest

from serve.policies.budget import NO_BUDGET, Budget, Timing
from serve.simulate.attainment_score import AttainmentScore, score
from serve.simulate.request_outcome import Outcome, refused
from serve.traffic.arrival import Arrival

LOSSES = {"S": 4.0, "XL": 3.0}


def arrival(budget: Budget, klass: str = "tight", *, at_ms: float = 0.0, output_tokens: int = 10) -> Arrival:
    return Arrival(at_ms=at_ms, prompt_tokens=5, output_tokens=output_tokens, budget=budget, klass=klass)


def done(arrival: Arrival, timing: Timing, submodels: Mapping[str, int]) -> Outcome:
    return Outcome(arrival=arrival, status="done", timing=timing, submodels=submodels)


def scored(*outcomes: Outcome, seconds: float = 2.0) -> AttainmentScore:
    return score(outcomes, losses=LOSSES, narrowest="S", universal="XL", seconds=seconds)


FAST = Timing(ttft_ms=10, tpot_ms=5, e2e_ms=55)
SLOW = Timing(ttft_ms=100, tpot_ms=50, e2e_ms=550)
OUTCOMES = (
    done(arrival(Budget(ttft_ms=10, tpot_ms=4)), FAST, {"XL": 10}),  # the first bound holds, the second does not
    done(arrival(Budget(e2e_ms=55)), FAST, {"XL": 4, "S": 6}),  # just in time
    done(arrival(Budget(tpot_ms=60), "loose"), SLOW, {"S": 10}),
    done(arrival(NO_BUDGET, "none", at_ms=3450), SLOW, {"XL": 10}),  # ends 4 s after the start
    refused(arrival(Budget(ttft_ms=1e9), "loose"), "rejected", {}),
    refused(arrival(Budget(tpot_ms=1e9), "loose"), "failed", {"XL": 2}),
)


def test_attainment_counts_all_bounds_of_requests_with_budgets_and_misses_what_was_not_answered() -> None:
    found = scored(*OUTCOMES)
    assert found.attainment == pytest.approx(2 / 5)
    assert found.by_kind == {"ttft": pytest.approx(1 / 2), "tpot": pytest.approx(1 / 3), "e2e": 1.0}
    assert found.by_class == {"tight": pytest.approx(1 / 2), "loose": pytest.approx(1 / 3)}
    assert (found.requests, found.rejected, found.failed) == (6, 1, 1)


def test_quality_is_the_loss_over_all_tokens_asked_for_with_missing_ones_at_the_narrowest() -> None:
    """XL made 10 + 4 + 10 + 2 tokens, S 6 + 10, and 10 + 8 never came: 26 at 3 nats and 34 at 4."""
    found = scored(*OUTCOMES)
    assert found.loss == pytest.approx((26 * 3 + 34 * 4) / 60)
    assert found.universal_share == pytest.approx(26 / 42)
    assert scored(OUTCOMES[4]).loss == 4.0


def test_goodput_counts_what_was_in_time_until_the_last_answer() -> None:
    found = scored(*OUTCOMES)
    assert found.goodput_requests_s == pytest.approx(3 / 4)
    assert found.goodput_tokens_s == pytest.approx(30 / 4)
    assert found.tokens_s == pytest.approx(42 / 4)
    assert scored(*OUTCOMES[:3]).goodput_requests_s == pytest.approx(2 / 2)  # all ended before the load did


def test_percentiles_are_of_what_was_answered() -> None:
    found = scored(*OUTCOMES)
    assert found.p50["ttft"] == pytest.approx(55)
    assert found.p99["e2e"] == pytest.approx(550)
    assert scored(OUTCOMES[4]).p50["ttft"] is None


def test_requests_without_budgets_leave_attainment_unknown_but_not_quality() -> None:
    found = scored(OUTCOMES[3])
    assert found.attainment is None
    assert found.by_kind == {"ttft": None, "tpot": None, "e2e": None}
    assert found.loss == 3.0


def test_a_score_survives_json() -> None:
    found = scored(*OUTCOMES)
    assert AttainmentScore(**json.loads(json.dumps(asdict(found)))) == found
