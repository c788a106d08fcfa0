"""Replicas that share what they count, over a store that is a dict, with a clock that the test sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serve.engine.observer import Load
from serve.engine.response import Progress
from serve.metrics.metrics_table import METRICS
from serve.metrics.prometheus_metrics import PrometheusMetrics
from serve.metrics.ray_shared_metrics import DEAD_S, FRESH_S, RaySharedMetrics
from serve.policies.budget import Budget
from serve.policies.request import Request
from tests.serve.metrics.test_prometheus_metrics import step


class DictStore:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def put(self, key: str, value: bytes, *, overwrite: bool = True) -> bool:
        is_new = key not in self.values
        if is_new or overwrite:
            self.values[key] = value
        return is_new

    def read(self, prefix: str) -> Mapping[str, bytes]:
        return {key: value for key, value in self.values.items() if key.startswith(prefix)}

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class Deployment:
    """Replicas by number; now_s: what their clocks say."""

    def __init__(self) -> None:
        self.store, self.now_s = DictStore(), 1e6

    def start(self, number: int) -> Replica:
        replica = Replica(self, number)
        replica.shared.take_over()
        return replica


class Replica:
    def __init__(self, deployment: Deployment, number: int) -> None:
        self.metrics = PrometheusMetrics(model_name="sotu", submodels=["S", "XL"])
        self.load = Load()
        self.shared = RaySharedMetrics(
            self.metrics,
            lambda: self.load,
            deployment.store,
            place="app/elastic/sotu",
            replica=str(number),
            clock=lambda: deployment.now_s,
        )

    def serve(self, requests: int = 1) -> None:
        progress = Progress(arrived_s=0.0, submodels=Counter(S=3, XL=2), first_s=0.1, last_s=0.5, ended_s=0.5)
        for _ in range(requests):
            self.metrics.stepped(step())
            self.metrics.ended(Request(prompt=(1,), max_tokens=5, budget=Budget(ttft_ms=99)), progress, "length")
        self.metrics.stepped(step(running=0, waiting=0, kv_usage=0.0))

    def scrape(self) -> dict[str, float]:
        return samples(self.shared.exposition()[0])


def samples(page: bytes) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            assert f"{sample.name}{{{labels}}}" not in found
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


ENDED = 'vllm:request_success_total{finished_reason="length",model_name="sotu"}'
RUNNING = 'vllm:num_requests_running{model_name="sotu"}'
USAGE = 'vllm:kv_cache_usage_perc{model_name="sotu"}'


def counters(scraped: dict[str, float]) -> dict[str, float]:
    gauges = tuple(metric.name for metric in METRICS if metric.kind == "gauge")
    return {name: value for name, value in scraped.items() if not name.startswith(gauges)}


def test_alone_a_replica_shows_what_it_shows_without_a_store() -> None:
    replica = Deployment().start(0)
    replica.serve(3)
    assert replica.scrape() == samples(replica.metrics.exposition()[0])


def test_whichever_replica_answers_the_page_is_that_of_all() -> None:
    deployment = Deployment()
    one, other = deployment.start(1), deployment.start(2)
    one.serve(5)
    one.shared.publish()
    assert [other.scrape()[ENDED], one.scrape()[ENDED], other.scrape()[ENDED]] == [5, 5, 5]
    other.serve(2)
    assert other.scrape() == one.scrape()
    twice = Deployment().start(0)
    twice.serve(5)
    twice.serve(2)
    assert counters(one.scrape()).keys() == counters(twice.scrape()).keys()
    for name in (ENDED, 'lts:submodel_tokens_total{model_name="sotu",submodel="S"}'):
        assert one.scrape()[name] == twice.scrape()[name]


def test_what_runs_is_added_up_and_of_shares_the_fullest_counts() -> None:
    deployment = Deployment()
    one, other = deployment.start(1), deployment.start(2)
    one.load, other.load = Load(running=2, waiting=1, kv_usage=0.75), Load(running=3, kv_usage=0.25)
    one.shared.publish()
    assert (other.scrape()[RUNNING], other.scrape()[USAGE]) == (5, 0.75)
    one.load = Load()
    one.shared.publish()
    assert (other.scrape()[RUNNING], other.scrape()[USAGE]) == (3, 0.25)


def test_a_replica_that_has_left_stays_in_the_counters_and_leaves_the_gauges() -> None:
    deployment = Deployment()
    one, other = deployment.start(1), deployment.start(2)
    one.serve(5)
    one.load = Load(running=2)
    one.shared.publish()
    before = other.scrape()
    deployment.now_s += FRESH_S + 1  # killed: nothing was heard of it since
    after = other.scrape()
    assert (before[RUNNING], after[RUNNING]) == (2, 0)
    assert counters(after) == counters(before)


def test_one_that_starts_takes_over_what_is_long_dead_once_and_only_once() -> None:
    """The store holds no more copies than there are replicas, however often they come and go."""
    deployment = Deployment()
    total = 0
    for number in range(5):
        replica = deployment.start(number)
        replica.serve(number + 1)
        total += number + 1
        assert replica.scrape()[ENDED] == total
        deployment.now_s += DEAD_S + 1
    assert len(deployment.store.read("app/elastic/sotu/copies/")) == 1
    one, other = deployment.start(10), deployment.start(11)  # only one of them can have it
    assert one.scrape()[ENDED] == other.scrape()[ENDED] == total


def test_one_that_dies_while_it_takes_over_counts_nothing_twice() -> None:
    deployment = Deployment()
    deployment.start(1).serve(4)
    first = deployment.start(2)
    first.serve(4)
    first.shared.publish()
    deployment.now_s += DEAD_S + 1
    kept = dict(deployment.store.values)
    second = deployment.start(3)  # its deletions are undone: as if it had died before them
    deployment.store.values = kept | deployment.store.values
    assert second.scrape()[ENDED] == 4
    deployment.now_s += DEAD_S + 1
    assert deployment.start(4).scrape()[ENDED] == 4


def test_a_copy_of_another_version_is_read_as_far_as_it_is_understood() -> None:
    deployment = Deployment()
    replica = deployment.start(1)
    replica.serve()
    counted = {
        "vllm:prompt_tokens_total": [[[], 1000.0]],
        "lts:step_seconds": [[[], {"counts": [1, 2], "sum": 3.0}]],
        "lts:of_the_future_total": [[[], 7.0]],
    }
    copy = {"at_s": deployment.now_s, "counted": counted, "taken_over": []}
    deployment.store.put("app/elastic/sotu/copies/new", json.dumps(copy).encode())
    scraped = replica.scrape()
    assert scraped['vllm:prompt_tokens_total{model_name="sotu"}'] > 1000
    assert scraped['lts:step_seconds_count{model_name="sotu"}'] == 2


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["serve", "scrape", "publish", "replace", "wait"]), st.integers(0, 2))))
def test_no_counter_ever_goes_backwards(events: list[tuple[str, int]]) -> None:
    """Whatever three replicas do, and however they are replaced: killed, without a last copy, at any moment."""
    deployment = Deployment()
    replicas = [deployment.start(number) for number in range(3)]
    started, last = 3, counters(replicas[0].scrape())
    for what, which in events:
        match what:
            case "serve":
                replicas[which].serve()
            case "publish":
                replicas[which].shared.publish()
            case "wait":
                deployment.now_s += DEAD_S / 2 + 1
                for replica in replicas:
                    replica.shared.publish()
            case "replace":
                replicas[which] = deployment.start(started)
                started += 1
            case _:
                now = counters(replicas[which].scrape())
                assert all(now[name] >= value for name, value in last.items())
                last = now
