"""Ray Serve's rule with its delays, the rule on latencies, and a fleet that stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import _apply_delay_logic
from ray.serve.config import AutoscalingConfig

from lts_ray.errors import LtsRayError
from serve.autoscaling.named_autoscalers import AUTOSCALERS, autoscaler_named
from tests.serve.autoscaling.fleets import fleet, kind


def counts(name: str, ongoing: Callable[[int], float], ticks: int, up: int = 2, **given: Any) -> list[int]:
    """Every 10 s; ongoing: requests in all by the tick. Each wish comes true at once."""
    autoscaler, found = autoscaler_named(name, **given), []
    for tick in range(ticks):
        running = ongoing(tick) / max(1, up)
        state = fleet(10.0 * tick, kind(up=up, min_replicas=1, running=running))
        up = autoscaler.decide(state).targets["large"]
        found.append(up)
    return found


def test_ray_goes_up_after_its_delay_and_down_after_ten_minutes() -> None:
    found = counts("ray", lambda tick: 16.0 if 10 <= tick < 20 else 4.0, 120)
    assert set(found[:13]) == {2}
    assert found[16] == 8
    assert found[75] == 8
    assert found[-1] == 2
    fast = counts("ray-fast", lambda tick: 16.0 if 10 <= tick < 20 else 4.0, 120)
    assert fast[10] == 8
    assert fast[30] == 2


def test_rays_delays_are_those_that_ray_has() -> None:
    config, wanted = AutoscalingConfig(min_replicas=1, max_replicas=50), [2, 9, 9, 9, 9, 2, 9, 9, 9, 9, *[3] * 70]
    theirs, up, memory = [], 2, dict[str, Any]()
    for tick, count in enumerate(wanted):
        up, memory = _apply_delay_logic(count, up, config, memory, _now=10.0 * tick)
        theirs.append(up)
    ours = counts("ray", lambda tick: 2.0 * wanted[tick], len(wanted), look_back_period_s=1.0)
    assert ours == theirs
    assert DeploymentID(name="large").name == "large"


def test_latencies_near_their_bounds_ask_for_more_and_far_from_them_for_less_later() -> None:
    autoscaler = autoscaler_named("slo-ratio")
    near = [autoscaler.decide(fleet(10.0 * t, kind(up=4, bounded=9.0, used_p90=1.5))).targets for t in range(5)]
    assert near[-1] == {"large": 6}
    level = autoscaler_named("slo-ratio")
    assert level.decide(fleet(0, kind(up=4, bounded=9.0, used_p90=1.05))).targets == {"large": 4}
    idle = autoscaler_named("slo-ratio")
    states = [fleet(10.0 * t, kind(up=4, min_replicas=1, bounded=9.0, used_p90=0.5)) for t in range(40)]
    down = [idle.decide(state).targets["large"] for state in states]
    assert down[0] == 2 or down[0] == 4
    assert down[-1] == 2


def test_a_fixed_fleet_is_what_it_was_said_to_be_within_bounds() -> None:
    state = fleet(0.0, kind(up=3), kind("small", up=1, max_replicas=2))
    assert autoscaler_named("fixed").decide(state).targets == {"large": 3, "small": 1}
    given = autoscaler_named("fixed", replicas={"large": 5, "small": 9})
    assert given.decide(state).targets == {"large": 5, "small": 2}


@pytest.mark.parametrize("name", AUTOSCALERS)
def test_a_name_makes_an_autoscaler_that_is_called_so_and_refuses_other_settings(name: str) -> None:
    assert autoscaler_named(name).name == name
    with pytest.raises(LtsRayError, match="colour"):
        autoscaler_named(name, colour="red")


def test_an_unknown_name_or_a_setting_out_of_range_is_told() -> None:
    with pytest.raises(LtsRayError, match="unknown autoscaler 'magic'; known: attainment, ray"):
        autoscaler_named("magic")
    with pytest.raises(LtsRayError, match="target_ongoing_requests must be above 0"):
        autoscaler_named("ray", target_ongoing_requests=0)
