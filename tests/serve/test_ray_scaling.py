"""Ray Serve's policy of a whole fleet, with contexts as the controller makes them, and the file that names it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingPolicy
from ray.serve.schema import ServeDeploySchema

from lts_ray.errors import LtsRayError
from serve.autoscaling.fleet_state import ReplicaLoad
from serve.ray_scaling import FleetScaling


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "kinds:\n"
        "  - {name: large, min_replicas: 1, max_replicas: 9, cost_per_hour: 2}\n"
        "  - {name: small, min_replicas: 0, max_replicas: 9, cost_per_hour: 1}\n"
    )
    return file


def context(name: str, loads: list[ReplicaLoad], *, least: int = 0, target: int | None = None) -> tuple[Any, Any]:
    id = DeploymentID(name=name, app_name="fleet")
    raw: dict[str, dict[Any, list[TimeStampedValue]]] = {"jobs": {}}
    for number, load in enumerate(loads):
        for metric, value in asdict(load).items():
            series = [TimeStampedValue(1.0, 99.0), TimeStampedValue(2.0, value)]  # the newest counts
            raw.setdefault(metric, {})[ReplicaID(f"r{number}", id)] = series
    return id, SimpleNamespace(
        deployment_name=name,
        raw_metrics=raw,
        target_num_replicas=len(loads) if target is None else target,
        capacity_adjusted_min_replicas=least,
        capacity_adjusted_max_replicas=9,
    )


LOADED = ReplicaLoad(window_s=60.0, came=300.0, sustained=2.0)


def test_counts_of_all_kinds_come_with_their_reason_and_the_ingress_stays(
    fleet_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = FleetScaling(fleet=str(fleet_file), start_s={"large": 5.0}, every_s=0.0)
    large, small = context("large", [LOADED], least=1), context("small", [])
    ingress = context("elastic", [], target=2)
    with caplog.at_level("INFO", logger="ray.serve"):
        counts, states = policy(dict([large, small, ingress]))
    assert 2 * counts[large[0]] + counts[small[0]] >= 5  # replicas bear 2 and, by their cost, 1
    assert counts[ingress[0]] == 2
    assert "5 requests/s" in states[large[0]]["reason"]
    assert "to bear" in caplog.text


def test_it_decides_now_and_then_and_says_the_same_in_between(fleet_file: Path) -> None:
    policy = FleetScaling(fleet=str(fleet_file), every_s=1000.0)
    first = policy(dict([context("large", [LOADED])]))
    assert policy(dict([context("large", [ReplicaLoad()])])) == first


def test_before_replicas_say_anything_all_stays(fleet_file: Path) -> None:
    silent = context("large", [], target=3)
    assert FleetScaling(fleet=str(fleet_file))(dict([silent]))[0] == {silent[0]: 3}


def test_wrong_settings_are_told(fleet_file: Path) -> None:
    with pytest.raises(LtsRayError, match="colour"):
        FleetScaling(fleet=str(fleet_file), colour="red")
    with pytest.raises(LtsRayError, match="unknown autoscaler"):
        FleetScaling(fleet=str(fleet_file), autoscaler="magic")


def test_a_file_names_the_policy_and_a_kinds_own_autoscaling_config_and_ray_takes_both(fleet_file: Path) -> None:
    named = {"policy_function": "serve.ray_scaling:FleetScaling", "policy_kwargs": {"fleet": str(fleet_file)}}
    own = {"min_replicas": 1, "max_replicas": 5, "upscale_delay_s": 0, "downscale_delay_s": 0}
    application = {
        "import_path": "serve.app:build",
        "autoscaling_policy": named,
        "deployments": [{"name": "large", "num_replicas": "auto", "autoscaling_config": own}],
    }
    read = ServeDeploySchema.model_validate({"applications": [application]}).applications[0]
    assert isinstance(read.autoscaling_policy, dict | AutoscalingPolicy)
    policy = AutoscalingPolicy(**named)
    assert policy.get_policy() is FleetScaling
    assert isinstance(policy.get_policy()(**policy.policy_kwargs), FleetScaling)
