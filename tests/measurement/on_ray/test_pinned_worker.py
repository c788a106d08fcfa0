from __future__ import annotations

from lts_ray.measurement.on_ray.pinned_worker import PinnedWorker, State, hosts, slots
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


def test_hosts_are_counted_once_and_only_those_that_take_part() -> None:
    workers = [
        worker("edge", "1"),
        worker("server", "1"),
        worker("edge", "2", state="lost"),
        worker("edge", "", started_s=None),
    ]
    assert hosts(workers) == 1
    assert hosts([*workers, worker("edge", "3", state="measuring")]) == 2


def test_as_many_evaluations_as_the_target_with_the_most_hosts_can_measure_and_one_that_waits() -> None:
    one_host = [worker("edge", "1"), worker("server", "1")]
    assert slots(one_host, loss="loss") == 2
    assert slots([*one_host, worker("server", "2"), worker("server", "3")], loss="loss") == 4
    assert slots([*one_host, worker("server", "2", state="lost")], loss="loss") == 2
    assert slots([], loss="loss") == 2


def test_a_host_that_computes_only_losses_takes_one_evaluation_more() -> None:
    assert slots([worker("edge", "1"), worker("loss", "1")], loss="loss") == 2
    assert slots([worker("edge", "1"), worker("loss", "2")], loss="loss") == 3


def test_a_status_shows_a_short_node_and_the_users_own_labels() -> None:
    status = worker("edge", "1").status(10.0)
    assert (status.node, status.address, status.labels) == ("01234567", "::1", {"role": "edge"})
    assert worker("edge", "1").place == "target 'edge' on node 01234567 (::1)"
