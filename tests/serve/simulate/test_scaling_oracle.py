"""The autoscaler that knows the load."""

from __future__ import annotations

from serve.simulate.scaling_oracle import ScalingOracle
from tests.serve.autoscaling.fleets import fleet, kind
from tests.serve.simulate.test_simulate import arrival


def test_replicas_are_asked_for_before_a_burst_and_go_after_it() -> None:
    load = [arrival(1e3 * second) for second in range(300)]
    load += [arrival(1e3 * second) for second in range(120, 150) for _ in range(4)]
    oracle = ScalingOracle(sorted(load, key=lambda each: each.at_ms), bears={"large": 1.0}, headroom=1.0)
    counts = {
        at_s: oracle.decide(fleet(at_s, kind(start_s=30.0))).targets["large"] for at_s in (0.0, 70.0, 125.0, 200.0)
    }
    assert counts == {0.0: 1, 70.0: 5, 125.0: 5, 200.0: 1}
    assert oracle.decide(fleet(9e9, kind(min_replicas=2))).targets == {"large": 2}
