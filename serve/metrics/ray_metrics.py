"""A few of the metrics in Ray's own pipeline, where those of all replicas come together.

A scrape of /metrics reaches whichever replica Ray Serve's proxy picks. Ray collects what its replicas record on every
node and adds which replica it was. Its names have underscores for colons; histograms stay with each replica.
"""

from __future__ import annotations

from collections import Counter as Sums
from collections.abc import Callable
from typing import Any, Protocol

from ray.serve import metrics as ray_serve

from serve.engine.observer import Refusal, StepRecord
from serve.engine.request import Request
from serve.engine.response import FinishReason, Progress
from serve.metrics import metrics_table as table
from serve.metrics.metrics_table import MODEL_LABEL, Metric
from serve.metrics.prometheus import REASONS, attainment

COUNTERS = (
    table.ENDED,
    table.ATTAINMENT,
    table.REFUSED,
    table.SUBMODEL_TOKENS,
    table.PROMPT_TOKENS,
    table.GENERATION_TOKENS,
    table.PREEMPTIONS,
    table.SWITCHES,
)
GAUGES = (table.RUNNING, table.WAITING, table.KV_USAGE)


class Counts(Protocol):
    def inc(self, value: float, tags: dict[str, str]) -> None: ...


class Shows(Protocol):
    def set(self, value: float, tags: dict[str, str]) -> None: ...


class RayMetrics:
    """An Observer. every_s: steps are recorded together, this long at a time, since Ray takes its time for each value.

    counter, gauge: how Ray's own are made; given name, description and tag_keys.
    """

    def __init__(
        self,
        *,
        model_name: str,
        every_s: float = 1.0,
        counter: Callable[..., Counts] = ray_serve.Counter,
        gauge: Callable[..., Shows] = ray_serve.Gauge,
    ) -> None:
        self._model = model_name
        self._every_s = every_s
        self._counters = {metric: counter(**_described(metric)) for metric in COUNTERS}
        self._gauges = {metric: gauge(**_described(metric)) for metric in GAUGES}
        self._steps: Sums[Metric] = Sums()
        self._recorded_s = float("-inf")

    def stepped(self, record: StepRecord) -> None:
        self._steps[table.PREEMPTIONS] += record.preempted
        self._steps[table.SWITCHES] += record.switches
        self._steps[table.PROMPT_TOKENS] += record.prompt_tokens + record.reused_tokens
        # The step that empties the batch may be the last one for long.
        if record.at_s - self._recorded_s < self._every_s and record.running:
            return
        self._recorded_s = record.at_s
        for metric, value in zip(GAUGES, (record.running, record.waiting, record.kv_usage), strict=True):
            self._gauges[metric].set(value, tags=self._tags(metric))
        for metric, total in self._steps.items():
            self._add(metric, total)
        self._steps.clear()

    def ended(self, request: Request, progress: Progress, reason: FinishReason | None) -> None:
        self._add(table.ENDED, 1, REASONS[reason])
        self._add(table.GENERATION_TOKENS, progress.tokens)
        for submodel, tokens in progress.submodels.items():
            self._add(table.SUBMODEL_TOKENS, tokens, submodel)
        for kind, met in attainment(request, progress, reason).items():
            self._add(table.ATTAINMENT, 1, kind, str(met).lower())

    def refused(self, reason: Refusal) -> None:
        self._add(table.REFUSED, 1, reason)

    def _add(self, metric: Metric, value: float, *labels: str) -> None:
        if value:  # Ray refuses to add nothing
            self._counters[metric].inc(value, tags=self._tags(metric, *labels))

    def _tags(self, metric: Metric, *labels: str) -> dict[str, str]:
        return {MODEL_LABEL: self._model} | dict(zip(metric.labels, labels, strict=True))


def _described(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name.replace(":", "_"),
        "description": metric.help,
        "tag_keys": (MODEL_LABEL, *metric.labels),
    }
