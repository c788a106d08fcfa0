"""Nodes that a cluster's autoscaler is asked for: a task that waits for one is the demand that it sees.

A task ends as soon as it has its node, and dies with the process that asked. Ray's own `request_resources` would stand
beyond both, and replace what others have asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import ray
from ray._private.worker import global_worker
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, ResourceRequest

from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.selector import needed_node
from lts_ray.target import Target


class AskedNodes:
    def __init__(self) -> None:
        self._tasks: dict[str, ray.ObjectRef] = {}

    def ask(self, targets: Sequence[Target]) -> None:
        """For a node for each of these, and for no other any more."""
        for name in self._tasks.keys() - {target.name for target in targets}:
            ray.cancel(self._tasks.pop(name))
        for target in targets:
            if not self.waits_for(target):
                needed = needed_node(target)
                cpus, gpus, selector = needed.pop("CPU"), needed.pop("GPU", 0), dict(target.label_selector)
                task = _arrive.options(num_cpus=cpus, num_gpus=gpus, resources=needed, label_selector=selector)
                self._tasks[target.name] = task.remote()

    def waits_for(self, target: Target) -> bool:
        return target.name in self._tasks and not ray.wait([self._tasks[target.name]], timeout=0)[0]

    async def refused(self, targets: Sequence[Target], *, within_s: float) -> Failed | None:
        """Which of these has no kind of node that the autoscaler may bring, if it says so in that time."""
        deadline, status = time.monotonic() + within_s, GetClusterStatusReply()
        while time.monotonic() < deadline and (waiting := [target for target in targets if self.waits_for(target)]):
            status.ParseFromString(await asyncio.to_thread(global_worker.gcs_client.get_cluster_status))
            for target in waiting:
                if any(_is_for(target, each) for each in status.autoscaling_state.infeasible_resource_requests):
                    wanted = f"with {needed_node(target)} that matches label_selector {dict(target.label_selector)}"
                    return Failed(
                        reason=f"target {target.name!r}: no node {wanted} is free, and the cluster's autoscaler has no "
                        "such kind of node, or may start no more of them"
                    )
            await asyncio.sleep(0.5)
        return None


def _is_for(target: Target, request: ResourceRequest) -> bool:
    """Whether the request is what is asked for the target, as far as Ray shows that."""
    selected = [each for selector in request.label_selectors for each in selector.label_constraints]
    values = {(each.label_key, value) for each in selected for value in each.label_values}
    return dict(request.resources_bundle) == needed_node(target) and all(
        value in target.label_selector.get(key, "") for key, value in values
    )


@ray.remote(max_retries=-1)  # type: ignore[untyped-decorator]
def _arrive() -> None:
    """On the node that was asked for."""
