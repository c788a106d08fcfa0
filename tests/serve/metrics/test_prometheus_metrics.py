"""What the engine tells, as Prometheus reads it; expected values by hand or by prometheus_client's own metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as OfficialHistogram
from prometheus_client.parser import text_string_to_metric_families

from serve.engine.observer import Load, StepRecord
from serve.engine.response import FinishReason, Progress
from serve.metrics.ended_request import EndedRequest
from serve.metrics.metrics_page import Histogram
from serve.metrics.metrics_table import MEDIAN_STEPS, METRICS, SECONDS, Metric
from serve.metrics.prometheus_metrics import PrometheusMetrics
from serve.metrics.ray_shared_metrics import RaySharedMetrics
from serve.policies.budget import NO_BUDGET, Budget
from serve.policies.named_policies import policy_named
from serve.policies.request import Request
from tests.serve.models import collect, tiny_engine, tiny_menu, tiny_model, tiny_runtime

STEP = StepRecord(
    at_s=10.0,
    predicted_ms=9.0,
    actual_ms=10.0,
    decoded=2,
    prompt_tokens=5,
    reused_tokens=16,
    switches=1,
    preempted=1,
    running=3,
    waiting=4,
    kv_usage=0.25,
)


def step(**changed: Any) -> StepRecord:
    return replace(STEP, **changed)


def asked(budget: Budget = NO_BUDGET) -> Request:
    return Request(prompt=(1, 2, 3), max_tokens=8, budget=budget)


def progress(**submodels: int) -> Progress:
    """First token after 50 ms, last one after 110 ms, the end seen at 120 ms."""
    return Progress(arrived_s=1.0, submodels=Counter(submodels or {"XL": 4}), first_s=1.05, last_s=1.11, ended_s=1.12)


def scraped(metrics: PrometheusMetrics | RaySharedMetrics) -> dict[str, float]:
    """Every sample as `name{label="value"}`, without the model's label."""
    text = metrics.exposition()[0].decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("model_name") == "sotu"
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def sample_names(metric: Metric) -> tuple[str, ...]:
    """Names of its lines. A histogram that goes below 0 has no sum, which could shrink, and so no count."""
    if metric.kind != "histogram":
        return (metric.name,)
    suffixes = ("bucket",) if metric.bounds[0] < 0 else ("bucket", "count", "sum")
    return tuple(f"{metric.name}_{suffix}" for suffix in suffixes)


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics(model_name="sotu", submodels=["S", "XL"])


def test_every_metric_of_the_table_is_scraped_before_anything_has_happened(metrics: PrometheusMetrics) -> None:
    names = {name.split("{")[0] for name in scraped(metrics)}
    assert names == {name for metric in METRICS for name in sample_names(metric)}
    assert set(scraped(metrics).values()) == {0.0}


def test_names_are_unique_and_say_whose_they_are_and_that_a_counter_is_one() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith(("vllm:", "lts:"))
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert bool(metric.bounds) == (metric.kind == "histogram")


def test_two_do_not_share_a_count(metrics: PrometheusMetrics) -> None:
    metrics.stepped(STEP)
    assert scraped(PrometheusMetrics(model_name="sotu"))["vllm:num_preemptions_total"] == 0


def test_a_step_is_counted(metrics: PrometheusMetrics) -> None:
    metrics.stepped(STEP)
    metrics.stepped(step(at_s=10.04, running=1, waiting=0, kv_usage=0.5))
    seen = scraped(metrics)
    assert seen["vllm:num_requests_running"] == 1
    assert seen["vllm:num_requests_waiting"] == 0
    assert seen["vllm:kv_cache_usage_perc"] == 0.5
    assert seen["vllm:num_preemptions_total"] == 2
    assert seen["lts:submodel_switches_total"] == 2
    assert seen["vllm:prompt_tokens_total"] == seen["vllm:prefix_cache_queries_total"] == 2 * 21
    assert seen["vllm:prefix_cache_hits_total"] == 2 * 16
    assert seen["lts:step_seconds_count"] == 2
    assert seen["lts:step_seconds_sum"] == pytest.approx(0.02)


def test_tokens_of_a_step_came_as_long_after_their_predecessors_as_the_step_after_the_one_before(
    metrics: PrometheusMetrics,
) -> None:
    for at_s, decoded in ((10.0, 0), (10.03, 2), (10.04, 3), (99.0, 0), (99.5, 1)):
        metrics.stepped(step(at_s=at_s, decoded=decoded))
    seen = scraped(metrics)
    assert seen["vllm:inter_token_latency_seconds_count"] == 6
    assert seen["vllm:inter_token_latency_seconds_sum"] == pytest.approx(2 * 0.03 + 3 * 0.01 + 0.5)


def test_the_error_of_predictions_is_relative_and_its_median_is_of_the_newest_steps(metrics: PrometheusMetrics) -> None:
    for number in range(1, 701):
        metrics.stepped(step(predicted_ms=10.0 - (number - 0.5) / 100, actual_ms=10.0))
    seen = scraped(metrics)
    newest = [(number - 0.5) / 1000 for number in range(701 - MEDIAN_STEPS, 701)]
    assert seen["lts:step_time_prediction_error_median"] == pytest.approx(median(newest))
    assert seen["lts:step_time_prediction_error_count"] == 700
    assert seen['lts:step_time_prediction_error_bucket{le="0.1"}'] == 100


def test_a_step_too_short_for_the_clock_has_no_relative_error(metrics: PrometheusMetrics) -> None:
    metrics.stepped(step(actual_ms=0.0))
    assert scraped(metrics)["lts:step_time_prediction_error_count"] == 0
    assert scraped(metrics)["lts:step_seconds_count"] == 1


def test_a_response_is_counted_when_it_ends(metrics: PrometheusMetrics) -> None:
    metrics.ended(asked(), progress(S=1, XL=3), "length")
    seen = scraped(metrics)
    assert seen['vllm:request_success_total{finished_reason="length"}'] == 1
    assert seen["vllm:generation_tokens_total"] == 4
    assert seen['lts:submodel_tokens_total{submodel="S"}'] == 1
    assert seen['lts:submodel_tokens_total{submodel="XL"}'] == 3
    assert seen["vllm:time_to_first_token_seconds_sum"] == pytest.approx(0.05)
    assert seen["vllm:request_time_per_output_token_seconds_sum"] == pytest.approx(0.02)
    assert seen["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(0.12)
    assert all(value == 0 for name, value in seen.items() if name.startswith(("lts:requests_with", "lts:budget")))


def test_one_token_has_no_time_per_token_and_no_token_has_no_first_one(metrics: PrometheusMetrics) -> None:
    metrics.ended(asked(), progress(XL=1), "stop")
    metrics.ended(asked(), Progress(arrived_s=1.0, ended_s=2.0), "stop")
    seen = scraped(metrics)
    assert seen["vllm:request_time_per_output_token_seconds_count"] == 0
    assert seen["vllm:time_to_first_token_seconds_count"] == 1
    assert seen["vllm:e2e_request_latency_seconds_count"] == 2


@pytest.mark.parametrize(("reason", "word"), [("cancelled", "abort"), (None, "error")])
def test_tokens_of_a_response_that_did_not_come_to_its_end_count_and_its_times_do_not(
    metrics: PrometheusMetrics, reason: FinishReason | None, word: str
) -> None:
    metrics.ended(asked(Budget(ttft_ms=60)), progress(XL=4), reason)
    seen = scraped(metrics)
    assert seen[f'vllm:request_success_total{{finished_reason="{word}"}}'] == 1
    assert seen["vllm:generation_tokens_total"] == 4
    assert seen["vllm:e2e_request_latency_seconds_count"] == seen["vllm:time_to_first_token_seconds_count"] == 0
    assert seen['lts:budget_slack_seconds_bucket{kind="ttft",le="+Inf"}'] == 0


def test_a_request_that_goes_on_elsewhere_has_not_ended_here(metrics: PrometheusMetrics) -> None:
    """Its tokens were made here all the same."""
    metrics.ended(asked(Budget(e2e_ms=1)), progress(XL=4), "moved")
    seen = {name: value for name, value in scraped(metrics).items() if value}
    assert seen == {"vllm:generation_tokens_total": 4, 'lts:submodel_tokens_total{submodel="XL"}': 4}


def test_budgets_are_counted_by_what_they_bound(metrics: PrometheusMetrics) -> None:
    metrics.ended(asked(Budget(ttft_ms=60, e2e_ms=100)), progress(), "stop")
    metrics.ended(asked(Budget(e2e_ms=150)), progress(), "length")
    seen = {name: value for name, value in scraped(metrics).items() if "requests_with_budget" in name and value}
    assert seen == {
        'lts:requests_with_budget_total{kind="ttft",met="true"}': 1,
        'lts:requests_with_budget_total{kind="e2e",met="false"}': 1,
        'lts:requests_with_budget_total{kind="e2e",met="true"}': 1,
        'lts:requests_with_budget_total{kind="all",met="false"}': 1,
        'lts:requests_with_budget_total{kind="all",met="true"}': 1,
    }


def test_slack_is_the_budget_less_the_time_and_negative_when_it_was_missed(metrics: PrometheusMetrics) -> None:
    metrics.ended(asked(Budget(e2e_ms=150)), progress(), "stop")  # 30 ms left
    metrics.ended(asked(Budget(e2e_ms=105)), progress(), "stop")  # 15 ms late
    buckets = {
        name: value for name, value in scraped(metrics).items() if 'budget_slack_seconds_bucket{kind="e2e"' in name
    }
    of = {name.split('le="')[1].rstrip('"}'): value for name, value in buckets.items()}
    assert (of["-0.02"], of["-0.01"], of["0.0"], of["0.02"], of["0.05"], of["+Inf"]) == (0, 1, 1, 1, 2, 2)


@pytest.mark.parametrize(
    ("budget", "reason", "expected"),
    [
        (NO_BUDGET, "stop", {}),
        (
            Budget(ttft_ms=50.1, tpot_ms=20.1, e2e_ms=120.1),
            "stop",
            {"ttft": True, "tpot": True, "e2e": True, "all": True},
        ),
        (Budget(ttft_ms=49.9, tpot_ms=20.1), "length", {"ttft": False, "tpot": True, "all": False}),
        (Budget(ttft_ms=1000), None, {"ttft": False, "all": False}),
        (Budget(ttft_ms=1), "cancelled", {}),
        (Budget(ttft_ms=1), "moved", {}),
    ],
    ids=["none", "all met", "one missed", "a failed request has missed", "the client left", "it goes on elsewhere"],
)
def test_attainment_is_of_each_budget_and_of_all(
    budget: Budget, reason: FinishReason | None, expected: dict[str, bool]
) -> None:
    assert EndedRequest(asked(budget), progress(), reason).attainment() == expected


def test_a_request_that_failed_before_its_first_token_has_missed_its_budget() -> None:
    ended = EndedRequest(asked(Budget(e2e_ms=1e6)), Progress(arrived_s=1.0), None)
    assert ended.attainment() == {"e2e": False, "all": False}


def test_refusals_are_counted_by_reason(metrics: PrometheusMetrics) -> None:
    metrics.refused("queue_full")
    metrics.refused("queue_full")
    seen = scraped(metrics)
    assert seen['lts:requests_refused_total{reason="queue_full"}'] == 2
    assert seen['lts:requests_refused_total{reason="infeasible"}'] == 0


def test_a_scrape_may_know_better_than_the_last_step_how_many_run(metrics: PrometheusMetrics) -> None:
    metrics.stepped(STEP)
    text = metrics.exposition(Load(waiting=2))[0].decode()
    assert 'vllm:num_requests_running{model_name="sotu"} 0.0' in text
    assert 'vllm:num_requests_waiting{model_name="sotu"} 2.0' in text
    assert 'vllm:kv_cache_usage_perc{model_name="sotu"} 0.0' in text


def test_the_content_type_is_that_of_the_text_format(metrics: PrometheusMetrics) -> None:
    assert metrics.exposition()[1] == "text/plain; version=0.0.4; charset=utf-8"


@given(st.lists(st.tuples(st.one_of(st.floats(0, 100), st.sampled_from(SECONDS)), st.integers(1, 4))))
def test_a_histogram_counts_like_the_official_one(observed: list[tuple[float, int]]) -> None:
    ours, registry = Histogram(SECONDS), CollectorRegistry()
    official = OfficialHistogram("seconds", "of the official kind", buckets=SECONDS, registry=registry)
    for value, times in observed:
        ours.observe(value, times)
        for _ in range(times):
            official.observe(value)
    (family,) = registry.collect()
    assert dict(ours.buckets()) == {
        sample.labels["le"]: sample.value for sample in family.samples if sample.name == "seconds_bucket"
    }
    assert ours.sum == pytest.approx(registry.get_sample_value("seconds_sum"))


def test_an_engine_that_is_observed_counts_what_its_responses_say() -> None:
    metrics = PrometheusMetrics(model_name="sotu", submodels=tiny_menu().named)
    engine = tiny_engine(tiny_runtime(tiny_model()), observers=[metrics], policy=policy_named("deadline"))
    small = tiny_menu().named["S"]
    requests = [
        Request(prompt=(5, 6, 7), max_tokens=6, ignore_eos=True, budget=Budget(e2e_ms=1e7, ttft_ms=1e-3)),
        Request(prompt=(8, 9), max_tokens=4, ignore_eos=True, pinned=small),
        Request(prompt=tuple(range(1, 41)), max_tokens=1, ignore_eos=True),
    ]

    async def answers() -> None:
        engine.start()
        responses = [engine.submit(each) for each in requests]
        assert [len(await collect(each)) for each in responses] == [6, 4, 1]

    asyncio.run(answers())
    engine.stop()
    seen = scraped(metrics)
    assert seen['vllm:request_success_total{finished_reason="length"}'] == 3
    assert seen["vllm:generation_tokens_total"] == 11
    assert seen["vllm:prompt_tokens_total"] == 45
    assert seen["vllm:inter_token_latency_seconds_count"] == 5 + 3
    assert seen["vllm:time_to_first_token_seconds_count"] == seen["vllm:e2e_request_latency_seconds_count"] == 3
    assert seen["vllm:request_time_per_output_token_seconds_count"] == 2
    assert seen['lts:submodel_tokens_total{submodel="S"}'] >= 4
    by_submodel = [value for name, value in seen.items() if name.startswith("lts:submodel_tokens_total")]
    assert sum(by_submodel) == 11
    assert seen['lts:requests_with_budget_total{kind="e2e",met="true"}'] == 1
    assert seen['lts:requests_with_budget_total{kind="ttft",met="false"}'] == 1
    assert seen['lts:requests_with_budget_total{kind="all",met="false"}'] == 1
    assert seen["vllm:num_requests_running"] == seen["vllm:num_requests_waiting"] == 0
    assert seen["lts:step_seconds_count"] == seen["lts:step_time_prediction_error_count"] >= 6
    assert seen["lts:step_time_prediction_error_median"] > 0
