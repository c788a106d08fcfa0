"""Numbers of metrics by their labels, and the text in which Prometheus scrapes them.

Numbers are kept as plain Python ones and become Prometheus' objects only when they are scraped: the engine's thread
pays a few microseconds a step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from serve.metrics.metrics_table import MODEL_LABEL, NODE_LABEL, Labels, Metric


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


class MetricsPage:
    """For any thread.

    model_name: what clients call the model. by_node: what the replicas of a fleet count is labelled by kind of node.
    """

    def __init__(self, table: Sequence[Metric], *, model_name: str, by_node: bool = False) -> None:
        self._table, self._model, self._by_node = table, model_name, by_node
        self._lock = Lock()  # a scrape sees no step half counted
        self._numbers: dict[Metric, dict[Labels, float]] = {metric: defaultdict(float) for metric in table}
        self._histograms: dict[Metric, dict[Labels, Histogram]] = {
            metric: {} for metric in table if metric.kind == "histogram"
        }
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def add(self, counted: Mapping[str, Any], *, gauges: bool, node: str = "") -> None:
        """What another has counted, on a kind of node; gauges: those too. What this version does not know is left out.

        counted: by metric, pairs of labels and a number, or of labels and a histogram's counts and sum.
        """
        with self._lock:
            for metric in self._table:
                for names, value in counted.get(metric.name, ()) if gauges or metric.kind != "gauge" else ():
                    labels = (node, *names) if self._is_by_node(metric) else tuple(names)
                    if metric.kind != "histogram":
                        self._numbers[metric][labels] = metric.joined(self._numbers[metric][labels], value)
                    elif len(value["counts"]) == len(metric.bounds) + 1:
                        self._histograms[metric].setdefault(labels, Histogram(metric.bounds)).add(**value)

    def exposition(self) -> tuple[bytes, str]:
        """What GET /metrics answers, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> list[Family]:
        """Called by the registry for each scrape."""
        with self._lock:
            return [self._family(metric) for metric in self._table]

    def _is_by_node(self, metric: Metric) -> bool:
        return self._by_node and not metric.of_fleet

    def _take(self, metric: Metric, labels: Labels, value: float) -> None:
        if metric.kind == "histogram":
            self._histograms[metric][labels].observe(value)
        else:
            self._numbers[metric][labels] += value

    def _family(self, metric: Metric) -> Family:
        names = (MODEL_LABEL, *((NODE_LABEL,) if self._is_by_node(metric) else ()), *metric.labels)
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
