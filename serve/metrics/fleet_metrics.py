"""What a fleet's ingress counts itself. Its page, with what the replicas have counted, is labelled by kind of node."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import get_args

from serve.engine.fleet_observer import FleetLoad, FleetObserver, MigrationReason, ReplicaState
from serve.engine.observer import Load
from serve.metrics.metrics_page import MetricsPage
from serve.metrics.metrics_table import DECIDED, FLEET_METRICS, METRICS, MIGRATED, PLACED, REPLICAS, Labels
from serve.metrics.prometheus_metrics import PrometheusMetrics


class FleetMetrics(PrometheusMetrics, FleetObserver):
    """For any thread. kinds: of node, whose series are 0 before anything happens."""

    def __init__(self, *, model_name: str, kinds: Iterable[str] = ()) -> None:
        shared = [metric for metric in METRICS if metric.at_ingress]
        super().__init__(model_name=model_name, table=(*shared, *FLEET_METRICS))
        kinds = tuple(kinds)
        self._numbers[PLACED].update({(kind,): 0 for kind in kinds})
        self._numbers[MIGRATED].update(dict.fromkeys(product(kinds, get_args(MigrationReason)), 0))
        self._no_replicas: dict[Labels, float] = dict.fromkeys(product(kinds, get_args(ReplicaState)), 0)

    def placed(self, kind: str) -> None:
        with self._lock:
            self._take(PLACED, (kind,), 1)

    def migrated(self, kind: str, reason: MigrationReason) -> None:
        with self._lock:
            self._take(MIGRATED, (kind, reason), 1)

    def decided(self, seconds: float) -> None:
        with self._lock:
            self._take(DECIDED, (), seconds)

    def joined(self) -> MetricsPage:
        return MetricsPage((*METRICS, *FLEET_METRICS), model_name=self._model, by_node=True)

    def _show(self, load: Load) -> None:
        super()._show(load)
        if isinstance(load, FleetLoad):
            self._numbers[REPLICAS] = dict(self._no_replicas)
            for (kind, state), count in load.replicas.items():
                self._numbers[REPLICAS][kind, state] = count
