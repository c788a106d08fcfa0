"""How many replicas a kind of node is to have. Ray Serve's controller runs this: it is to import next to nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from time import monotonic
from typing import Any

from ray.serve.config import AutoscalingContext

from serve.autoscaling.fleet_state import FleetState, KindState, ReplicaLoad
from serve.autoscaling.named_autoscalers import autoscaler_named
from serve.fleet.node_kind import NodeKind, load_kinds

logger = logging.getLogger("ray.serve")
"""The controller's log."""

JOBS = "jobs"
"""What a replica records: requests that run on it, and that wait there."""
START_S = 60.0
"""What a replica takes to come up, where nothing says so."""
Counts = dict[Any, int]


def follow_jobs(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As Ray Serve's own rule, of the requests that replicas have: those of a fleet come by no handle that Ray sees.

    Ray adds bounds and delays, and begins from none where a call waits at a handle.
    """
    counted = (context.aggregated_metrics or {}).get(JOBS)
    if not counted:  # none has recorded yet
        return context.target_num_replicas, {}
    assert context.config is not None
    return sum(counted.values()) / context.config.get_target_ongoing_requests(), {}


class FleetScaling:
    """Ray Serve's application-level policy, of all kinds together: the autoscalers of serve/autoscaling, by name."""

    def __init__(
        self,
        *,
        fleet: str,
        autoscaler: str = "attainment",
        start_s: float | Mapping[str, float] = START_S,
        every_s: float = 5.0,
        **settings: Any,
    ) -> None:
        """fleet: the application's fleet.yaml, on the head. start_s: from asking for a replica to its serving, by kind
        or of all. every_s: how often it decides; Ray asks ten times a second. settings: the autoscaler's own.

        Raises LtsRayError for a file or a setting that is wrong.
        """
        self._kinds = {kind.name: kind for kind in load_kinds(Path(fleet))}
        self._autoscaler, self._start_s, self._every_s = autoscaler_named(autoscaler, **settings), start_s, every_s
        self._decided_s, self._targets, self._reason = float("-inf"), dict[str, int](), ""

    def __call__(self, contexts: Mapping[Any, AutoscalingContext]) -> tuple[Counts, dict[Any, dict[str, Any]]]:
        mine = {id: context for id, context in contexts.items() if context.deployment_name in self._kinds}
        if (now_s := monotonic()) - self._decided_s >= self._every_s:
            self._decided_s = now_s
            self._decide(FleetState(now_s=now_s, kinds=tuple([self._state(each) for each in mine.values()])))
        counts = {id: self._targets.get(each.deployment_name, each.target_num_replicas) for id, each in mine.items()}
        counts |= {id: each.target_num_replicas for id, each in contexts.items() if id not in mine}
        return counts, {id: {"reason": self._reason} for id in mine}

    def _decide(self, state: FleetState) -> None:
        scaling = self._autoscaler.decide(state)
        self._targets, self._reason = dict(scaling.targets), scaling.reason
        if any(self._targets[kind.name] != kind.target for kind in state.kinds):
            logger.info("%s scales: %s", self._autoscaler.name, scaling.reason)

    def _state(self, context: AutoscalingContext) -> KindState:
        kind: NodeKind = self._kinds[context.deployment_name]
        start_s = self._start_s.get(kind.name, START_S) if isinstance(self._start_s, Mapping) else self._start_s
        return KindState(
            name=kind.name,
            min_replicas=context.capacity_adjusted_min_replicas,
            max_replicas=context.capacity_adjusted_max_replicas,
            cost_per_hour=kind.cost_per_hour,
            start_s=start_s,
            target=context.target_num_replicas,
            replicas=_loads(context),
        )


def _loads(context: AutoscalingContext) -> dict[str, ReplicaLoad]:
    """The newest that each replica recorded."""
    found: dict[str, dict[str, float]] = {}
    known = {field.name for field in fields(ReplicaLoad)}
    for metric, by_replica in (context.raw_metrics or {}).items():
        for replica, series in by_replica.items() if metric in known else ():
            if series:
                found.setdefault(str(replica), {})[metric] = float(series[-1].value)
    return {replica: ReplicaLoad(**numbers) for replica, numbers in found.items()}
