"""Counts what the engine tells of itself, and prints it as Prometheus scrapes it. No state outside of the object.

Numbers are kept as plain Python ones and become Prometheus' objects only when they are scraped: the engine's thread
pays a few microseconds a step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable
from itertools import accumulate
from statistics import median
from threading import Lock

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from serve.engine.observer import Refusal, StepRecord
from serve.engine.request import Request
from serve.engine.response import FinishReason, Progress
from serve.metrics import metrics_table as table
from serve.metrics.metrics_table import METRICS, MODEL_LABEL, Metric
from serve.policies.budget import KINDS

MEDIAN_STEPS = 512
REASONS: dict[FinishReason | None, str] = {"stop": "stop", "length": "length", "cancelled": "abort", None: "error"}
"""vLLM's words for ours."""


class Histogram:
    """counts: observations in each bucket, which includes its upper bound; the last has none."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and the number of observations up to it, as Prometheus counts them."""
        return list(zip([*map(str, map(float, self.bounds)), "+Inf"], accumulate(self.counts), strict=True))


class Metrics:
    """An Observer; `stepped` and `ended` in the engine's thread, all else in any.

    model_name: what clients call the model. submodels: those whose tokens are 0 before they have made one; others
    appear with their first token.
    """

    def __init__(self, *, model_name: str, submodels: Iterable[str] = ()) -> None:
        self._model = model_name
        self._lock = Lock()  # a scrape sees no step half counted
        self._numbers: dict[Metric, dict[tuple[str, ...], float]] = defaultdict(lambda: defaultdict(float))
        self._histograms: dict[Metric, dict[tuple[str, ...], Histogram]] = {
            metric: {} for metric in METRICS if metric.kind == "histogram"
        }
        self._errors: deque[float] = deque(maxlen=MEDIAN_STEPS)
        self._last_step_s: float | None = None
        for metric in METRICS:
            for labels in _known_labels(metric, submodels):
                if metric.kind == "histogram":
                    self._histograms[metric][labels] = Histogram(metric.bounds)
                else:
                    self._numbers[metric][labels] = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def stepped(self, record: StepRecord) -> None:
        with self._lock:
            self._numbers[table.RUNNING][()] = record.running
            self._numbers[table.WAITING][()] = record.waiting
            self._numbers[table.KV_USAGE][()] = record.kv_usage
            self._numbers[table.PREEMPTIONS][()] += record.preempted
            self._numbers[table.SWITCHES][()] += record.switches
            self._numbers[table.PROMPT_TOKENS][()] += record.prompt_tokens + record.reused_tokens
            self._numbers[table.PREFIX_QUERIES][()] += record.prompt_tokens + record.reused_tokens
            self._numbers[table.PREFIX_HITS][()] += record.reused_tokens
            self._observe(table.STEP_SECONDS, record.actual_ms / 1e3)
            if record.actual_ms > 0:  # a clock may be too coarse to see a step
                error = abs(record.predicted_ms / record.actual_ms - 1)
                self._errors.append(error)
                self._observe(table.PREDICTION_ERROR, error)
            # A step that goes on with a response directly follows another one: the engine had work.
            if record.decoded and self._last_step_s is not None:
                self._observe(table.INTER_TOKEN, record.at_s - self._last_step_s, times=record.decoded)
            self._last_step_s = record.at_s

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        measured = progress.measured()
        with self._lock:
            self._numbers[table.ENDED][(REASONS[reason],)] += 1
            self._numbers[table.GENERATION_TOKENS][()] += progress.tokens
            for submodel, tokens in progress.submodels.items():
                self._numbers[table.SUBMODEL_TOKENS][(submodel,)] += tokens
            for kind, met in attainment(request, progress, reason).items():
                self._numbers[table.ATTAINMENT][(kind, str(met).lower())] += 1
            if measured is None or reason not in ("stop", "length"):
                return
            self._observe(table.E2E, measured.e2e_ms / 1e3)
            if progress.admitted_s is not None:
                self._observe(table.QUEUE_TIME, progress.admitted_s - progress.arrived_s)
            if progress.first_s is not None:
                self._observe(table.TTFT, measured.ttft_ms / 1e3)
            if progress.tokens > 1:
                self._observe(table.TIME_PER_TOKEN, measured.tpot_ms / 1e3)
            for kind, limit_ms in request.budget.items().items():
                self._observe(table.SLACK, (limit_ms - getattr(measured, f"{kind}_ms")) / 1e3, kind)

    def refused(self, reason: Refusal) -> None:
        """A request that the engine never got."""
        with self._lock:
            self._numbers[table.REFUSED][(reason,)] += 1

    def exposition(self, counts: tuple[int, int] | None = None) -> tuple[bytes, str]:
        """What GET /metrics answers, and its content type.

        counts: requests that run and that wait now. Without them, those of the last step, which is behind when
        requests have come or gone since and no step has run.
        """
        if counts is not None:
            with self._lock:
                self._numbers[table.RUNNING][()], self._numbers[table.WAITING][()] = counts
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> list[Family]:
        """Called by the registry for each scrape."""
        with self._lock:
            self._numbers[table.MEDIAN_PREDICTION_ERROR][()] = median(self._errors) if self._errors else 0.0
            return [self._family(metric) for metric in METRICS]

    def describe(self) -> list[Family]:
        """The registry checks names for clashes, which the one collector of this registry has not."""
        return []

    def _observe(self, metric: Metric, value: float, *labels: str, times: int = 1) -> None:
        self._histograms[metric][labels].observe(value, times)

    def _family(self, metric: Metric) -> Family:
        names = (MODEL_LABEL, *metric.labels)
        if metric.kind == "histogram":
            histograms = HistogramMetricFamily(metric.name, metric.help, labels=names)
            for labels, histogram in self._histograms[metric].items():
                histograms.add_metric((self._model, *labels), histogram.buckets(), histogram.sum)
            return histograms
        make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        numbers = make(metric.name, metric.help, labels=names)
        for labels, number in self._numbers[metric].items():
            numbers.add_metric((self._model, *labels), number)
        return numbers


def attainment(request: Request, progress: Progress, reason: FinishReason | None) -> dict[str, bool]:
    """Whether each budget of an ended request was met, by kind; `all`: every one at once. Empty where nobody can tell.

    Those are requests without a budget, and those whose client left.
    """
    limits = request.budget.items()
    if not limits or reason == "cancelled":
        return {}
    measured = progress.measured()
    met = {
        kind: reason is not None and measured is not None and getattr(measured, f"{kind}_ms") <= limit
        for kind, limit in limits.items()
    }
    return met | {"all": all(met.values())}


def _known_labels(metric: Metric, submodels: Iterable[str]) -> list[tuple[str, ...]]:
    """Series that are there from the start: a rate needs the zero before the first event."""
    match metric:
        case table.ENDED:
            return [(reason,) for reason in REASONS.values()]
        case table.ATTAINMENT:
            return [(kind, met) for kind in (*KINDS, "all") for met in ("true", "false")]
        case table.SLACK:
            return [(kind,) for kind in KINDS]
        case table.REFUSED:
            return [("queue_full",), ("infeasible",)]
        case table.SUBMODEL_TOKENS:
            return [(name,) for name in submodels]
        case _:
            return [()]
