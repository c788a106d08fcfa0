"""Every metric that the endpoint exports: its name, kind, labels and meaning. What fills them is in metrics.py.

Names that start with `vllm:` are vLLM's, for what means the same here, so that its dashboards and alerts work; the
buckets are our own, since a small model's tokens come within milliseconds. Names that start with `lts:` are about
budgets and submodels, which vLLM has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

MODEL_LABEL = "model_name"
"""The first label of every metric."""

SECONDS = tuple(
    round(digit * 10.0**power, 6) for power in range(-3, 2) for digit in (1, 1.5, 2, 3, 5, 7)
)  # 1 ms … 70 s
SLACK_SECONDS = tuple(
    [-each for each in (5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)]
    + [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
)
RELATIVE_ERROR = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """name: as it is scraped; a counter's ends in _total. labels: after the model's. bounds: a histogram's buckets.

    Two are never the same one (eq=False), which also makes each a quick key of a dict.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    def sample_names(self) -> tuple[str, ...]:
        """Names of its lines. A histogram that goes below 0 has no sum, which could shrink, and so no count."""
        if self.kind != "histogram":
            return (self.name,)
        suffixes = ("bucket",) if self.bounds[0] < 0 else ("bucket", "count", "sum")
        return tuple(f"{self.name}_{suffix}" for suffix in suffixes)


RUNNING = Metric(name="vllm:num_requests_running", kind="gauge", help="Requests in the batch.")
WAITING = Metric(name="vllm:num_requests_waiting", kind="gauge", help="Requests in the queue.")
KV_USAGE = Metric(
    name="vllm:kv_cache_usage_perc", kind="gauge", help="Share of the KV cache's blocks in use, from 0 to 1."
)
PREEMPTIONS = Metric(
    name="vllm:num_preemptions_total", kind="counter", help="Requests that lost their blocks and were run again."
)
PROMPT_TOKENS = Metric(
    name="vllm:prompt_tokens_total", kind="counter", help="Tokens of prompts, run or found in the prefix cache."
)
GENERATION_TOKENS = Metric(
    name="vllm:generation_tokens_total", kind="counter", help="Tokens of responses, counted when they end."
)
PREFIX_QUERIES = Metric(
    name="vllm:prefix_cache_queries_total", kind="counter", help="Tokens that were looked for in the prefix cache."
)
PREFIX_HITS = Metric(
    name="vllm:prefix_cache_hits_total", kind="counter", help="Tokens that were found in the prefix cache."
)
ENDED = Metric(
    name="vllm:request_success_total",
    kind="counter",
    labels=("finished_reason",),
    help="Requests that have ended: stop, length, abort (the client left) or error (a step failed).",
)
TTFT = Metric(
    name="vllm:time_to_first_token_seconds",
    kind="histogram",
    bounds=SECONDS,
    help="Arrival to first token of responses that ended by stop or length.",
)
QUEUE_TIME = Metric(
    name="vllm:request_queue_time_seconds",
    kind="histogram",
    bounds=SECONDS,
    help="Arrival to the beginning of the first step of responses that ended by stop or length.",
)
INTER_TOKEN = Metric(
    name="vllm:inter_token_latency_seconds",
    kind="histogram",
    bounds=SECONDS,
    help="Time between two tokens of a response: from the step before to the one that made the token.",
)
TIME_PER_TOKEN = Metric(
    name="vllm:request_time_per_output_token_seconds",
    kind="histogram",
    bounds=SECONDS,
    help="Mean time of a response's tokens after the first.",
)
E2E = Metric(
    name="vllm:e2e_request_latency_seconds",
    kind="histogram",
    bounds=SECONDS,
    help="Arrival to last token of responses that ended by stop or length.",
)
ATTAINMENT = Metric(
    name="lts:requests_with_budget_total",
    kind="counter",
    labels=("kind", "met"),
    help="Ended requests by what they had a budget for (ttft, tpot, e2e; all: every one at once) and whether it was"
    " met. A failed request has missed; one whose client left does not count.",
)
SLACK = Metric(
    name="lts:budget_slack_seconds",
    kind="histogram",
    labels=("kind",),
    bounds=SLACK_SECONDS,
    help="Budget less what was measured; below 0 the budget was missed.",
)
REFUSED = Metric(
    name="lts:requests_refused_total",
    kind="counter",
    labels=("reason",),
    help="Requests answered with 429: queue_full, or infeasible (strict, and no submodel could keep the budget).",
)
SUBMODEL_TOKENS = Metric(
    name="lts:submodel_tokens_total",
    kind="counter",
    labels=("submodel",),
    help="Tokens of responses by the submodel that made them, counted when the response ends.",
)
SWITCHES = Metric(
    name="lts:submodel_switches_total", kind="counter", help="Changes of a response's submodel in its middle."
)
STEP_SECONDS = Metric(
    name="lts:step_seconds", kind="histogram", bounds=SECONDS, help="Time of a step; its count is the steps so far."
)
PREDICTION_ERROR = Metric(
    name="lts:step_time_prediction_error",
    kind="histogram",
    bounds=RELATIVE_ERROR,
    help="Error of a step's predicted time, relative to the measured one: |predicted / measured - 1|.",
)
MEDIAN_PREDICTION_ERROR = Metric(
    name="lts:step_time_prediction_error_median",
    kind="gauge",
    help="Median relative error of the predicted time of the last 512 steps.",
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order above."""
