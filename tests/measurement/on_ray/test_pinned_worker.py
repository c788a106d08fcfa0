from __future__ import annotations

from lts_ray.measurement.on_ray.pinned_worker import PinnedWorker, State
from lts_ray.measurement.on_ray.selector import ClusterNode
from tests.measurement.on_ray.test_dispatcher import FakeProcess


def worker(target: str, host: str, *, state: State = "idle", started_s: float | None = 0.0) -> PinnedWorker:
    node = ClusterNode(
        node_id="0123456789abcdef", labels={"role": "edge", "ray.io/node-id": "x"}, resources={}, address="::1"
    )
    return PinnedWorker(
        target=target,
        label=f"target {target!r}",
        node=node,
        process=FakeProcess(host),
        host=host,
        state=state,
        started_s=started_s,
    )


def test_a_status_shows_a_short_node_and_the_users_own_labels() -> None:
    status = worker("edge", "1").status(10.0)
    assert (status.node, status.address, status.labels) == ("01234567", "::1", {"role": "edge"})
    assert worker("edge", "1").place == "target 'edge' on node 01234567 (::1)"
