"""How many replicas a kind of node is to have. Ray Serve's controller runs this: it is to import next to nothing."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

JOBS = "jobs"
"""What a replica records: requests that run on it, and that wait there."""


def follow_jobs(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As Ray Serve's own rule, of the requests that replicas have: those of a fleet come by no handle that Ray sees.

    Ray adds bounds and delays, and begins from none where a call waits at a handle.
    """
    counted = (context.aggregated_metrics or {}).get(JOBS)
    if not counted:  # none has recorded yet
        return context.target_num_replicas, {}
    assert context.config is not None
    return sum(counted.values()) / context.config.get_target_ongoing_requests(), {}
