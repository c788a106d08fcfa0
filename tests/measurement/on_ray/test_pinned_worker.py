from __future__ import annotations

from lts_ray.measurement.on_ray.pinned_worker import Seat, State, hosts, slots
from lts_ray.measurement.on_ray.selector import ClusterNode
from tests.measurement.on_ray.test_dispatcher import FakeWorker


def seat(target: str, host: str, *, state: State = "idle", started_s: float | None = 0.0) -> Seat:
    node = ClusterNode(
        node_id="0123456789abcdef", labels={"role": "edge", "ray.io/node-id": "x"}, resources={}, address="::1"
    )
    return Seat(
        target=target,
        label=f"target {target!r}",
        node=node,
        worker=FakeWorker(host),
        host=host,
        state=state,
        started_s=started_s,
    )


def test_hosts_are_counted_once_and_only_those_that_take_part() -> None:
    seats = [seat("edge", "1"), seat("server", "1"), seat("edge", "2", state="lost"), seat("edge", "", started_s=None)]
    assert hosts(seats) == 1
    assert hosts([*seats, seat("edge", "3", state="measuring")]) == 2


def test_as_many_evaluations_as_the_target_with_the_most_hosts_can_measure_and_one_that_waits() -> None:
    one_host = [seat("edge", "1"), seat("server", "1")]
    assert slots(one_host, loss="loss") == 2
    assert slots([*one_host, seat("server", "2"), seat("server", "3")], loss="loss") == 4
    assert slots([*one_host, seat("server", "2", state="lost")], loss="loss") == 2
    assert slots([], loss="loss") == 2


def test_a_host_that_computes_only_losses_takes_one_evaluation_more() -> None:
    assert slots([seat("edge", "1"), seat("loss", "1")], loss="loss") == 2
    assert slots([seat("edge", "1"), seat("loss", "2")], loss="loss") == 3


def test_a_status_shows_a_short_node_and_the_users_own_labels() -> None:
    status = seat("edge", "1").status(10.0)
    assert (status.node, status.address, status.labels) == ("01234567", "::1", {"role": "edge"})
    assert seat("edge", "1").place == "target 'edge' on node 01234567 (::1)"
