"""Every metric that the endpoint exports: its name, kind, labels and meaning, and how it is filled.

Names that start with `vllm:` are vLLM's, for what means the same here, so that its dashboards and alerts work; the
buckets are our own, since a small model's tokens come within milliseconds. Names that start with `lts:` are about
budgets and submodels, which vLLM has not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import add
from typing import Literal

from serve.engine.observer import Load, Refusal, StepRecord
from serve.metrics.ended_request import REASONS, EndedRequest
from serve.policies.budget import KINDS

Labels = tuple[str, ...]
Values = Mapping[Labels, float]

MODEL_LABEL = "model_name"
"""The first label of every metric."""
NODE_LABEL = "node_kind"
"""The second in a fleet, of all that its replicas count; empty for what none has counted. `kind` is a budget's."""
MEDIAN_STEPS = 512

SECONDS = tuple(
    round(digit * 10.0**power, 6) for power in range(-3, 2) for digit in (1, 1.5, 2, 3, 5, 7)
)  # 1 ms … 70 s
SLACK_SECONDS = tuple(
    [-bound for bound in (5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)]
    + [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
)
ROUTE_SECONDS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 0.1)
RELATIVE_ERROR = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)


def once(step: StepRecord) -> int:
    return 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """No two are equal (eq=False), which also makes each a quick key of a dict."""

    name: str
    """As it is scraped; a counter's ends in _total."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    """After the model's."""
    series: tuple[Labels, ...] = ((),)
    """Values of the labels that are there from the start: a rate needs the zero before the first event."""
    bounds: tuple[float, ...] = ()
    """A histogram's buckets."""
    of_step: Callable[[StepRecord, StepRecord | None], float | None] | None = None
    """The value of a step, given the one before it; None where it has none. A counter adds it."""
    of_load: Callable[[Load], float] | None = None
    """What a gauge shows."""
    times: Callable[[StepRecord], int] = once
    """How often a histogram counts a step's value."""
    median_of: int = 0
    """Above 0: a gauge shows the median of that many steps' values, the newest."""
    of_request: Callable[[EndedRequest], Values] | None = None
    """The values of a request that has ended, by their labels."""
    of_refusal: Callable[[Refusal], Values] | None = None
    joined: Callable[[float, float], float] = add
    """What two replicas' values are together."""
    in_ray: bool = False
    """Whether it is recorded in Ray's pipeline too."""
    at_ingress: bool = False
    """Whether a fleet's ingress counts it too, for requests that no replica counts."""
    of_fleet: bool = False
    """Whether only a fleet's ingress counts it."""


def _seconds_between_tokens(step: StepRecord, before: StepRecord | None) -> float | None:
    """A step that continues a response comes directly after another one: the engine had work."""
    return None if before is None or not step.decoded else step.at_s - before.at_s


def _unlabelled(value: float | None) -> Values:
    return {} if value is None else {(): value}


ENDED = Metric(
    name="vllm:request_success_total",
    kind="counter",
    labels=("finished_reason",),
    series=tuple((reason,) for reason in REASONS.values()),
    help="Requests that have ended: stop, length, abort (the client left) or error (a step failed, or the answer could"
    " not be written; one that had ended before counts twice).",
    of_request=lambda ended: {(REASONS[ended.reason],): 1} if ended.reason in REASONS else {},
    at_ingress=True,
    in_ray=True,
)
METRICS: tuple[Metric, ...] = (
    Metric(
        name="vllm:num_requests_running",
        kind="gauge",
        help="Requests in the batch.",
        of_load=lambda load: load.running,
        in_ray=True,
    ),
    Metric(
        name="vllm:num_requests_waiting",
        kind="gauge",
        help="Requests in the queue.",
        of_load=lambda load: load.waiting,
        at_ingress=True,
        in_ray=True,
    ),
    Metric(
        name="vllm:kv_cache_usage_perc",
        kind="gauge",
        help="Share of the KV cache's blocks in use, from 0 to 1; of several replicas, of the fullest one.",
        of_load=lambda load: load.kv_usage,
        joined=max,
        in_ray=True,
    ),
    Metric(
        name="vllm:num_preemptions_total",
        kind="counter",
        help="Requests that lost their blocks and were run again.",
        of_step=lambda step, _: step.preempted,
        in_ray=True,
    ),
    Metric(
        name="vllm:prompt_tokens_total",
        kind="counter",
        help="Tokens of prompts, run or found in the prefix cache.",
        of_step=lambda step, _: step.prompt_tokens + step.reused_tokens,
        in_ray=True,
    ),
    Metric(
        name="vllm:generation_tokens_total",
        kind="counter",
        help="Tokens of responses, counted when they end.",
        of_request=lambda ended: {(): ended.progress.tokens},
        at_ingress=True,
        in_ray=True,
    ),
    Metric(
        name="vllm:prefix_cache_queries_total",
        kind="counter",
        help="Tokens that were looked for in the prefix cache.",
        of_step=lambda step, _: step.prompt_tokens + step.reused_tokens,
    ),
    Metric(
        name="vllm:prefix_cache_hits_total",
        kind="counter",
        help="Tokens that were found in the prefix cache.",
        of_step=lambda step, _: step.reused_tokens,
    ),
    ENDED,
    Metric(
        name="vllm:time_to_first_token_seconds",
        kind="histogram",
        bounds=SECONDS,
        help="Arrival to first token of responses that ended by stop or length.",
        of_request=lambda ended: _unlabelled(ended.ttft_s),
    ),
    Metric(
        name="vllm:request_queue_time_seconds",
        kind="histogram",
        bounds=SECONDS,
        help="Arrival to the beginning of the first step of responses that ended by stop or length.",
        of_request=lambda ended: _unlabelled(ended.queue_s),
    ),
    Metric(
        name="vllm:inter_token_latency_seconds",
        kind="histogram",
        bounds=SECONDS,
        help="Time between two tokens of a response: from the step before to the one that made the token.",
        of_step=_seconds_between_tokens,
        times=lambda step: step.decoded,
    ),
    Metric(
        name="vllm:request_time_per_output_token_seconds",
        kind="histogram",
        bounds=SECONDS,
        help="Mean time of a response's tokens after the first.",
        of_request=lambda ended: _unlabelled(ended.tpot_s),
    ),
    Metric(
        name="vllm:e2e_request_latency_seconds",
        kind="histogram",
        bounds=SECONDS,
        help="Arrival to last token of responses that ended by stop or length.",
        of_request=lambda ended: _unlabelled(ended.e2e_s),
    ),
    Metric(
        name="lts:requests_with_budget_total",
        kind="counter",
        labels=("kind", "met"),
        series=tuple((kind, met) for kind in (*KINDS, "all") for met in ("true", "false")),
        help="Ended requests by what they had a budget for (ttft, tpot, e2e; all: every one at once) and whether it was"
        " met. A failed request has missed; one whose client left does not count.",
        of_request=lambda ended: {(kind, str(met).lower()): 1 for kind, met in ended.attainment().items()},
        at_ingress=True,
        in_ray=True,
    ),
    Metric(
        name="lts:budget_slack_seconds",
        kind="histogram",
        labels=("kind",),
        series=tuple((kind,) for kind in KINDS),
        bounds=SLACK_SECONDS,
        help="Budget less what was measured; below 0 the budget was missed.",
        of_request=lambda ended: {(kind,): slack_s for kind, slack_s in ended.slack_s().items()},
    ),
    Metric(
        name="lts:requests_refused_total",
        kind="counter",
        labels=("reason",),
        series=(("queue_full",), ("infeasible",)),
        help="Requests answered with 429: queue_full, or infeasible (strict, and no submodel could keep the budget).",
        of_refusal=lambda reason: {(reason,): 1},
        at_ingress=True,
        in_ray=True,
    ),
    Metric(
        name="lts:submodel_tokens_total",
        kind="counter",
        labels=("submodel",),
        series=(),  # a Prometheus counter begins with the submodels that it is told of
        help="Tokens of responses by the submodel that made them, counted when the response ends.",
        of_request=lambda ended: {(submodel,): tokens for submodel, tokens in ended.progress.submodels.items()},
        at_ingress=True,
        in_ray=True,
    ),
    Metric(
        name="lts:submodel_switches_total",
        kind="counter",
        help="Changes of a response's submodel in its middle.",
        of_step=lambda step, _: step.switches,
        in_ray=True,
    ),
    Metric(
        name="lts:step_seconds",
        kind="histogram",
        bounds=SECONDS,
        help="Time of a step; its count is the steps so far.",
        of_step=lambda step, _: step.actual_ms / 1e3,
    ),
    Metric(
        name="lts:step_time_prediction_error",
        kind="histogram",
        bounds=RELATIVE_ERROR,
        help="Error of a step's predicted time, relative to the measured one: |predicted / measured - 1|.",
        of_step=lambda step, _: step.relative_error,
    ),
    Metric(
        name="lts:step_time_prediction_error_median",
        kind="gauge",
        help="Median relative error of the predicted time of the last 512 steps; of several replicas, the worst.",
        joined=max,
        of_step=lambda step, _: step.relative_error,
        median_of=MEDIAN_STEPS,
    ),
)
PLACED = Metric(
    name="lts:requests_placed_total",
    kind="counter",
    labels=(NODE_LABEL,),
    series=(),  # of the kinds that it is told of; so too below
    help="Requests sent to a replica of a fleet; one that moves counts again.",
    of_fleet=True,
)
MIGRATED = Metric(
    name="lts:migrations_total",
    kind="counter",
    labels=(NODE_LABEL, "reason"),
    series=(),
    help="Requests that a replica has lost and another goes on with, by the lost one's kind and why: it died, was"
    " silent for too long, or was draining.",
    of_fleet=True,
)
DECIDED = Metric(
    name="lts:route_decision_seconds",
    kind="histogram",
    bounds=ROUTE_SECONDS,
    help="Time to choose a replica; its count is the decisions so far.",
    of_fleet=True,
)
REPLICAS = Metric(
    name="lts:replicas",
    kind="gauge",
    labels=(NODE_LABEL, "state"),
    series=(),
    help="Replicas by what their ingress has heard of them: ready, silent or draining.",
    joined=max,
    of_fleet=True,
)
FLEET_METRICS: tuple[Metric, ...] = (PLACED, MIGRATED, DECIDED, REPLICAS)
