"""A few of the table's metrics in Ray's own pipeline, beside those of Ray Serve itself.

Ray collects what its replicas record on every node and adds which replica it was. Its names have underscores for
colons; there are no histograms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

from ray.serve import metrics as ray_serve

from serve.engine.observer import Load, Observer, Refusal, StepRecord
from serve.engine.response import FinishReason, Progress
from serve.metrics.ended_request import REASONS, EndedRequest
from serve.metrics.metrics_table import ENDED, METRICS, MODEL_LABEL, NODE_LABEL, Labels, Metric
from serve.policies.request import Request


class RayCounter(Protocol):
    def inc(self, value: float, tags: dict[str, str]) -> None: ...


class RayGauge(Protocol):
    def set(self, value: float, tags: dict[str, str]) -> None: ...


class RayMetrics(Observer):
    """node: this replica's kind of node in a fleet, a tag of all its values.

    every_s: steps of so many seconds are recorded together, since each value takes Ray some time.
    counter, gauge: how Ray's own are made; given name, description and tag_keys.
    """

    def __init__(
        self,
        *,
        model_name: str,
        node: str | None = None,
        every_s: float = 1.0,
        counter: Callable[..., RayCounter] = ray_serve.Counter,
        gauge: Callable[..., RayGauge] = ray_serve.Gauge,
    ) -> None:
        self._common = {MODEL_LABEL: model_name} | ({} if node is None else {NODE_LABEL: node})
        self._every_s = every_s
        ours = [metric for metric in METRICS if metric.in_ray]
        self._counters = {metric: counter(**self._described(metric)) for metric in ours if metric.kind == "counter"}
        self._gauges = {metric: gauge(**self._described(metric)) for metric in ours if metric.kind == "gauge"}
        self._of_step = [(metric, metric.of_step) for metric in self._counters if metric.of_step]
        self._sums: dict[Metric, float] = defaultdict(float)
        self._recorded_s = float("-inf")

    def stepped(self, record: StepRecord) -> None:
        for metric, of_step in self._of_step:
            if value := of_step(record, None):
                self._sums[metric] += value
        # The step that empties the batch may be the last one for long.
        if record.at_s - self._recorded_s < self._every_s and record.running:
            return
        self._recorded_s = record.at_s
        self._record(record)

    def idle(self) -> None:
        self._record(Load())

    def broken(self) -> None:
        self._add(ENDED, (REASONS[None],), 1)

    def _record(self, load: Load) -> None:
        for metric, gauge in self._gauges.items():
            if metric.of_load:
                gauge.set(metric.of_load(load), tags=self._tags(metric))
        for metric, total in self._sums.items():
            self._add(metric, (), total)
        self._sums.clear()

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        ended = EndedRequest(request, progress, reason)
        for metric in self._counters:
            for labels, value in metric.of_request(ended).items() if metric.of_request else ():
                self._add(metric, labels, value)

    def refused(self, reason: Refusal) -> None:
        for metric in self._counters:
            for labels, value in metric.of_refusal(reason).items() if metric.of_refusal else ():
                self._add(metric, labels, value)

    def _add(self, metric: Metric, labels: Labels, value: float) -> None:
        if value:  # Ray refuses to add nothing
            self._counters[metric].inc(value, tags=self._tags(metric, *labels))

    def _tags(self, metric: Metric, *labels: str) -> dict[str, str]:
        return self._common | dict(zip(metric.labels, labels, strict=True))

    def _described(self, metric: Metric) -> dict[str, Any]:
        return {
            "name": metric.name.replace(":", "_"),
            "description": metric.help,
            "tag_keys": (*self._common, *metric.labels),
        }
