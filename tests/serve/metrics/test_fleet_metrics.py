"""What an ingress counts, and the one page of a fleet: two kinds of node and two ingresses over a store in a dict."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.engine.fleet_observer import FleetLoad
from serve.engine.observer import Load
from serve.engine.response import Progress
from serve.metrics.fleet_metrics import FleetMetrics
from serve.metrics.metrics_table import FLEET_METRICS, METRICS
from serve.metrics.prometheus_metrics import PrometheusMetrics
from serve.metrics.ray_metrics import RayMetrics
from serve.metrics.ray_shared_metrics import DEAD_S, RaySharedMetrics
from serve.policies.budget import Budget
from serve.policies.request import Request
from tests.serve.metrics.test_prometheus_metrics import sample_names, scraped, step
from tests.serve.metrics.test_ray_metrics import Recorder
from tests.serve.metrics.test_ray_shared_metrics import DictStore

KINDS = ("cpu", "gpu")


@dataclass
class Clock:
    now_s: float = 1e6

    def __call__(self) -> float:
        return self.now_s


class Member:
    """A replica of a kind, or an ingress where it has none."""

    def __init__(self, store: DictStore, clock: Clock, name: str, node: str = "") -> None:
        self.node = node
        self.metrics = (
            PrometheusMetrics(model_name="sotu", submodels=["S"]) if node else FleetMetrics(model_name="sotu")
        )
        self.load: Load = Load()
        self.shared = RaySharedMetrics(
            self.metrics, lambda: self.load, store, place="app/sotu", replica=name, node=node, clock=clock
        )
        self.shared.take_over()

    def serve(self, tokens: int = 5) -> None:
        progress = Progress(arrived_s=0.0, submodels=Counter(S=tokens), first_s=0.1, last_s=0.5, ended_s=0.5)
        self.metrics.stepped(step())
        self.metrics.ended(Request(prompt=(1,), max_tokens=tokens, budget=Budget(ttft_ms=99)), progress, "length")
        self.shared.publish()

    def page(self) -> dict[str, float]:
        return scraped(self.shared)


def test_an_ingress_counts_places_moves_refusals_and_how_long_it_chose() -> None:
    metrics = FleetMetrics(model_name="sotu", kinds=KINDS)
    before = scraped(metrics)
    assert set(before.values()) == {0}
    assert {name for name in before if "migrations" in name} == {
        f'lts:migrations_total{{node_kind="{kind}",reason="{reason}"}}'
        for kind in KINDS
        for reason in ("died", "silent", "draining")
    }
    metrics.placed("gpu")
    metrics.migrated("gpu", "died")
    metrics.placed("cpu")
    metrics.refused("infeasible")
    metrics.decided(0.0003)
    metrics.decided(0.2)
    assert {name: value for name, value in scraped(metrics).items() if value and "bucket" not in name} == {
        'lts:requests_placed_total{node_kind="cpu"}': 1,
        'lts:requests_placed_total{node_kind="gpu"}': 1,
        'lts:migrations_total{node_kind="gpu",reason="died"}': 1,
        'lts:requests_refused_total{reason="infeasible"}': 1,
        "lts:route_decision_seconds_count": 2,
        "lts:route_decision_seconds_sum": pytest.approx(0.2003),
    }
    assert scraped(metrics)['lts:route_decision_seconds_bucket{le="0.0003"}'] == 1


def test_replicas_are_shown_as_they_are_now() -> None:
    metrics = FleetMetrics(model_name="sotu", kinds=["cpu"])
    for replicas in ({("cpu", "ready"): 2, ("gpu", "silent"): 1}, {("cpu", "draining"): 1}):
        metrics.counted(FleetLoad(waiting=3, replicas=replicas))
        shown = {name: value for name, value in scraped(metrics).items() if name.startswith("lts:replicas")}
        none = {("cpu", "ready"): 0, ("cpu", "silent"): 0, ("cpu", "draining"): 0}
        expected = {f'lts:replicas{{node_kind="{k}",state="{s}"}}': n for (k, s), n in (none | replicas).items()}
        assert shown == expected
    assert scraped(metrics)["vllm:num_requests_waiting"] == 3


def test_the_page_of_a_fleet_has_each_kind_by_itself_and_adds_up() -> None:
    store, clock = DictStore(), Clock()
    small, other, large = (
        Member(store, clock, name, node) for name, node in (("a", "cpu"), ("b", "cpu"), ("c", "gpu"))
    )
    ingress = Member(store, clock, "d")
    for member, tokens in ((small, 3), (other, 4), (large, 5), (large, 6)):
        member.serve(tokens)
    small.load, other.load, large.load = Load(running=1, waiting=2), Load(running=3), Load(running=4, kv_usage=0.5)
    for member in (small, other, large):
        member.shared.publish()
    ingress.load = FleetLoad(waiting=7, replicas={("cpu", "ready"): 2, ("gpu", "ready"): 1})
    ingress.metrics.refused("queue_full")
    page = ingress.page()
    assert page['vllm:generation_tokens_total{node_kind="cpu"}'] == 7
    assert page['vllm:generation_tokens_total{node_kind="gpu"}'] == 11
    assert page['lts:submodel_tokens_total{node_kind="gpu",submodel="S"}'] == 11
    assert page['vllm:time_to_first_token_seconds_count{node_kind="cpu"}'] == 2
    assert page['vllm:num_requests_running{node_kind="cpu"}'] == 4
    assert [page[f'vllm:num_requests_waiting{{node_kind="{node}"}}'] for node in ("", "cpu", "gpu")] == [7, 2, 0]
    assert page['vllm:kv_cache_usage_perc{node_kind="gpu"}'] == 0.5
    assert page['lts:requests_refused_total{node_kind="",reason="queue_full"}'] == 1
    assert page['lts:replicas{node_kind="cpu",state="ready"}'] == 2
    assert {name.split("{")[0] for name in page} >= {name for metric in METRICS for name in sample_names(metric)} | {
        name for metric in FLEET_METRICS if not metric.labels for name in sample_names(metric)
    }


def test_what_a_lost_request_had_got_is_counted_by_the_ingress() -> None:
    """Where it ends in an error because its replica is gone, which cannot count it."""
    store, clock = DictStore(), Clock()
    ingress = Member(store, clock, "d")
    progress = Progress(arrived_s=0.0, submodels=Counter(S=2), first_s=0.1, last_s=0.2)
    ingress.metrics.ended(Request(prompt=(1,), max_tokens=5, budget=Budget(e2e_ms=99)), progress, None)
    page = ingress.page()
    assert page['vllm:request_success_total{finished_reason="error",node_kind=""}'] == 1
    assert page['lts:requests_with_budget_total{kind="e2e",met="false",node_kind=""}'] == 1
    assert page['vllm:generation_tokens_total{node_kind=""}'] == 2


def test_two_ingresses_add_what_they_did_and_agree_on_what_is_there() -> None:
    store, clock = DictStore(), Clock()
    one, other = Member(store, clock, "a"), Member(store, clock, "b")
    for ingress in (one, other):
        assert isinstance(ingress.metrics, FleetMetrics)
        ingress.metrics.placed("cpu")
        ingress.load = FleetLoad(replicas={("cpu", "ready"): 3})
        ingress.shared.publish()
    assert one.page() == other.page()
    assert one.page()['lts:requests_placed_total{node_kind="cpu"}'] == 2
    assert one.page()['lts:replicas{node_kind="cpu",state="ready"}'] == 3


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["cpu", "gpu", ""]), min_size=1, max_size=8))
def test_what_has_left_is_taken_over_by_its_own_kind_and_no_counter_changes(came: list[str]) -> None:
    store, clock = DictStore(), Clock()
    served: defaultdict[str, int] = defaultdict(int)
    for number, node in enumerate(came):
        member = Member(store, clock, str(number), node)
        member.serve(tokens=number + 1)
        served[node] += number + 1
        clock.now_s += DEAD_S + 1
    assert len(store.read("app/sotu/copies/")) == len(set(came)), "each kind keeps one copy"
    page = Member(store, clock, "reader").page()
    assert {node: page.get(f'vllm:generation_tokens_total{{node_kind="{node}"}}') for node in served} == served


def test_rays_own_metrics_have_the_kind_too() -> None:
    recorder = Recorder()
    rays = RayMetrics(model_name="sotu", node="gpu", counter=recorder.make, gauge=recorder.make)
    rays.refused("queue_full")
    assert recorder.values == {("lts_requests_refused_total", "gpu", "queue_full"): 1}
