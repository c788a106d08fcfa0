"""What passes after the engine's tokens: learned from answers that were sent, and taken off the budgets of the next."""

from __future__ import annotations

from typing import cast

import pytest
from fastapi.testclient import TestClient

from serve.engine.response import Progress
from serve.http.delivery_times import ANSWERS, PRIOR_MS, DeliveryTimes
from serve.http.generation import Choices, Generation
from serve.http.service import Service
from serve.policies.budget import Budget, Timing
from serve.policies.delivery import Delivery


def test_before_an_answer_little_is_believed_and_soon_forgotten() -> None:
    times = DeliveryTimes()
    assert times.safe(whole=True) == times.likely(whole=False) == Delivery(first_ms=PRIOR_MS, end_ms=PRIOR_MS)
    times.note("whole", 33.0)
    assert times.safe(whole=True) == Delivery(first_ms=PRIOR_MS, end_ms=PRIOR_MS + 2)
    for _ in range(15):
        times.note("whole", 33.0)
    assert times.safe(whole=True).end_ms == 33
    assert times.safe(whole=False).end_ms == PRIOR_MS


def test_the_last_answers_count_by_their_median_and_upper_quantile() -> None:
    times = DeliveryTimes(attainment=0.9)
    for ms in [1e6] * 50 + list(range(ANSWERS)):
        times.note("first", float(ms))
    assert times.likely(whole=False).first_ms == ANSWERS // 2
    assert times.safe(whole=False).first_ms == 231  # the 232nd of 256: ceil(257 * 0.9)


def test_the_engine_has_what_is_left_and_never_less_than_half() -> None:
    delivery = Delivery(first_ms=10, end_ms=20)
    budget = Budget(ttft_ms=100, tpot_ms=5, e2e_ms=30)
    assert delivery.off(budget) == Budget(ttft_ms=90, tpot_ms=5, e2e_ms=15)
    assert delivery.off(Budget(tpot_ms=5)) == Budget(tpot_ms=5)
    assert delivery.budget_ms({"ttft": 90, "tpot": 5, "e2e": 15}) == {"ttft": 100, "tpot": 5, "e2e": 30}
    assert delivery.on(Timing(ttft_ms=1, tpot_ms=2, e2e_ms=3)) == Timing(ttft_ms=11, tpot_ms=2, e2e_ms=23)


@pytest.mark.parametrize("stream", [True, False])
def test_every_answer_is_noted_and_says_where_its_time_went(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    noted: list[tuple[str, float]] = []
    monkeypatch.setattr(service.deliveries, "note", lambda part, ms: noted.append((part, ms)))
    body = {"model": "tiny", "prompt": "the", "max_tokens": 4, "ignore_eos": True, "stream": stream}
    answer = client.post("/v1/completions", json=body)
    assert [part for part, _ in noted] == (["first", "stream"] if stream else ["whole"])
    assert all(ms > 0 for _, ms in noted)
    if not stream:
        report = answer.json()["lts"]
        parts = report["time_ms"]
        assert parts["queue"] + parts["engine"] == pytest.approx(report["measured_ms"]["e2e"], abs=0.02)
        assert parts["delivery"] == round(service.deliveries.likely(whole=True).end_ms, 2)


def test_a_budget_is_kept_only_if_its_answer_is_delivered_in_it(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": "tiny", "prompt": "the", "max_tokens": 2, "latency_budget_ms": 600_000}
    assert client.post("/v1/completions", json=body).json()["lts"]["budget_met"] is True
    monkeypatch.setattr(service.deliveries, "likely", lambda whole: Delivery(end_ms=600_000))
    report = client.post("/v1/completions", json=body).json()["lts"]
    assert report["budget_ms"] == {"e2e": 600_000}
    assert report["budget_met"] is False


def test_a_client_that_is_slow_to_read_says_nothing_of_others() -> None:
    class Ended:
        progress = Progress(arrived_s=0.0, first_s=1.0, last_s=2.0, ended_s=2.0)

    times = DeliveryTimes()
    choices = Choices(generations=(cast("Generation", Ended()),), prompt_tokens=1, deliveries=times)
    choices.sent(1.01, waited_s=0.0, last=False)
    choices.sent(9.01, waited_s=7.0, last=True)
    assert choices.delivered == {"first": pytest.approx(10), "stream": pytest.approx(7010)}
    assert times.safe(whole=False).end_ms == PRIOR_MS
