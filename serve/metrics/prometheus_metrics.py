"""Counts the metrics of the table that an engine fills. No state outside of the object."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from prometheus_client.metrics_core import Metric as Family

from serve.engine.observer import Load, Observer, Refusal, StepRecord
from serve.engine.response import FinishReason, Progress
from serve.metrics.ended_request import REASONS, EndedRequest
from serve.metrics.metrics_page import Histogram, MetricsPage
from serve.metrics.metrics_table import ENDED, METRICS, Labels, Metric
from serve.policies.request import Request


class PrometheusMetrics(MetricsPage, Observer):
    """An Observer; `stepped` and `ended` in the engine's thread, all else in any.

    model_name: what clients call the model. submodels: those whose tokens are 0 before they have made one; others
    appear with their first token.
    """

    def __init__(self, *, model_name: str, submodels: Iterable[str] = (), table: Sequence[Metric] = METRICS) -> None:
        super().__init__(table, model_name=model_name)
        self._newest = {metric: deque[float](maxlen=metric.median_of) for metric in table if metric.median_of}
        self._step_before: StepRecord | None = None
        names = [(name,) for name in submodels]
        for metric in table:
            series = names if metric.labels == ("submodel",) else metric.series
            if metric.kind == "histogram":
                self._histograms[metric] = {labels: Histogram(metric.bounds) for labels in series}
            else:
                self._numbers[metric].update(dict.fromkeys(series, 0.0))
        # What a step changes, found once.
        steps = [(metric, metric.of_step) for metric in table if metric.of_step]
        self._step_counts = [(self._numbers[metric], of) for metric, of in steps if metric.kind == "counter"]
        self._step_newest = [(self._newest[metric], of) for metric, of in steps if metric.median_of]
        self._step_times = [
            (self._histograms[metric][()], of, metric.times) for metric, of in steps if metric.kind == "histogram"
        ]
        self._of_load = [(self._numbers[metric], metric.of_load) for metric in table if metric.of_load]

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
            for metric in self._table:
                for labels, value in metric.of_request(ended).items() if metric.of_request else ():
                    self._take(metric, labels, value)

    def refused(self, reason: Refusal) -> None:
        """A request that the engine never got."""
        with self._lock:
            for metric in self._table:
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
        return super().exposition()

    def counted(self, load: Load) -> dict[str, Any]:
        """All of it as JSON, for `add`. load: the engine's now."""
        with self._lock:
            self._show(load)
            self._take_medians()
            return {
                metric.name: [[list(labels), value] for labels, value in self._values(metric).items()]
                for metric in self._table
            }

    def joined(self) -> MetricsPage:
        """For `add`, in which nothing is counted yet: what all that count as this one does come to."""
        return MetricsPage(self._table, model_name=self._model)

    def collect(self) -> list[Family]:
        with self._lock:
            self._take_medians()
        return super().collect()

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
