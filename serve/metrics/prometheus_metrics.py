"""Counts the metrics of the table, and prints them as Prometheus scrapes them. No state outside of the object.

Numbers are kept as plain Python ones and become Prometheus' objects only when they are scraped: the engine's thread
pays a few microseconds a step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from statistics import median
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from serve.engine.observer import Load, Observer, Refusal, StepRecord
from serve.engine.response import FinishReason, Progress
from serve.metrics.ended_request import REASONS, EndedRequest
from serve.metrics.metrics_table import ENDED, METRICS, MODEL_LABEL, Labels, Metric
from serve.policies.request import Request


class Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        """Of the buckets, each of which includes its upper bound; the last bucket has none."""
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def add(self, counts: Sequence[int], sum: float) -> None:
        """Of another with the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.sum += sum

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and the number of observations up to it, as Prometheus counts them."""
        return list(zip([*map(str, map(float, self.bounds)), "+Inf"], accumulate(self.counts), strict=True))


class PrometheusMetrics(Observer):
    """An Observer; `stepped` and `ended` in the engine's thread, all else in any.

    model_name: what clients call the model. submodels: those whose tokens are 0 before they have made one; others
    appear with their first token.
    """

    def __init__(self, *, model_name: str, submodels: Iterable[str] = ()) -> None:
        self._model = model_name
        self._lock = Lock()  # a scrape sees no step half counted
        self._numbers: dict[Metric, dict[Labels, float]] = {metric: defaultdict(float) for metric in METRICS}
        self._histograms: dict[Metric, dict[Labels, Histogram]] = {}
        self._newest = {metric: deque[float](maxlen=metric.median_of) for metric in METRICS if metric.median_of}
        self._step_before: StepRecord | None = None
        names = [(name,) for name in submodels]
        for metric in METRICS:
            series = names if metric.labels == ("submodel",) else metric.series
            if metric.kind == "histogram":
                self._histograms[metric] = {labels: Histogram(metric.bounds) for labels in series}
            else:
                self._numbers[metric].update(dict.fromkeys(series, 0.0))
        # What a step changes, found once.
        steps = [(metric, metric.of_step) for metric in METRICS if metric.of_step]
        self._step_counts = [(self._numbers[metric], of) for metric, of in steps if metric.kind == "counter"]
        self._step_newest = [(self._newest[metric], of) for metric, of in steps if metric.median_of]
        self._step_times = [
            (self._histograms[metric][()], of, metric.times) for metric, of in steps if metric.kind == "histogram"
        ]
        self._of_load = [(self._numbers[metric], metric.of_load) for metric in METRICS if metric.of_load]
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def stepped(self, record: StepRecord) -> None:
        before = self._step_before
        with self._lock:
            for numbers, of_step in self._step_counts:
                if value := of_step(record, before):
                    numbers[()] += value
            for newest, of_step in self._step_newest:
                if (value := of_step(record, before)) is not None:
                    newest.append(value)
            for histogram, of_step, times in self._step_times:
                if (value := of_step(record, before)) is not None:
                    histogram.observe(value, times(record))
            self._show(record)
            self._step_before = record

    def idle(self) -> None:
        with self._lock:
            self._show(Load())

    def broken(self) -> None:
        with self._lock:
            self._take(ENDED, (REASONS[None],), 1)

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        ended = EndedRequest(request, progress, reason)
        with self._lock:
            for metric in METRICS:
                for labels, value in metric.of_request(ended).items() if metric.of_request else ():
                    self._take(metric, labels, value)

    def refused(self, reason: Refusal) -> None:
        """A request that the engine never got."""
        with self._lock:
            for metric in METRICS:
                for labels, value in metric.of_refusal(reason).items() if metric.of_refusal else ():
                    self._take(metric, labels, value)

    def exposition(self, load: Load | None = None) -> tuple[bytes, str]:
        """What GET /metrics answers, and its content type.

        load: the engine's now. Without it, that after the last step, which is behind when requests have come or gone
        since and no step has run.
        """
        if load is not None:
            with self._lock:
                self._show(load)
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def counted(self, load: Load) -> dict[str, Any]:
        """All of it as JSON, for `add`. load: the engine's now."""
        with self._lock:
            self._show(load)
            self._take_medians()
            return {
                metric.name: [[list(labels), value] for labels, value in self._values(metric).items()]
                for metric in METRICS
            }

    def add(self, counted: Mapping[str, Any], *, gauges: bool) -> None:
        """What another has counted; gauges: those too. What this version does not know is left out."""
        with self._lock:
            for metric in METRICS:
                for names, value in counted.get(metric.name, ()) if gauges or metric.kind != "gauge" else ():
                    labels = tuple(names)
                    if metric.kind != "histogram":
                        self._numbers[metric][labels] = metric.joined(self._numbers[metric][labels], value)
                    elif len(value["counts"]) == len(metric.bounds) + 1:
                        self._histograms[metric].setdefault(labels, Histogram(metric.bounds)).add(**value)

    def empty(self) -> PrometheusMetrics:
        """Another of the same model, in which nothing is counted."""
        return PrometheusMetrics(model_name=self._model)

    def collect(self) -> list[Family]:
        """Called by the registry for each scrape."""
        with self._lock:
            self._take_medians()
            return [self._family(metric) for metric in METRICS]

    def _take_medians(self) -> None:
        for metric, values in self._newest.items():
            if values:
                self._numbers[metric][()] = median(values)

    def _values(self, metric: Metric) -> Mapping[Labels, Any]:
        if metric.kind != "histogram":
            return self._numbers[metric]
        return {
            labels: {"counts": histogram.counts, "sum": histogram.sum}
            for labels, histogram in self._histograms[metric].items()
        }

    def _show(self, load: Load) -> None:
        for numbers, of_load in self._of_load:
            numbers[()] = of_load(load)

    def _take(self, metric: Metric, labels: Labels, value: float) -> None:
        if metric.kind == "histogram":
            self._histograms[metric][labels].observe(value)
        else:
            self._numbers[metric][labels] += value

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
