"""cluster.yaml is what Ray's launcher accepts, and has the kinds of node that the docs speak of."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config


def test_ray_accepts_cluster_yaml() -> None:
    config = yaml.safe_load(Path("cluster.yaml").read_text())
    validate_config(prepare_config(config))


def test_there_is_a_head_two_kinds_of_cpu_node_and_a_gpu_node_each_labelled() -> None:
    types = yaml.safe_load(Path("cluster.yaml").read_text())["available_node_types"]
    assert {name: each["labels"]["role"] for name, each in types.items()} == {
        "head": "head",
        "cpu-small": "cpu-small",
        "cpu-large": "cpu-large",
        "gpu": "gpu",
    }


def test_each_setting_says_what_it_is_for() -> None:
    """Where it stands first: beside it, or in the line above."""
    lines, seen = Path("cluster.yaml").read_text().splitlines(), set()
    for above, line in zip(["", *lines], lines, strict=False):
        setting = re.match(r" *([\w~/.-]+):", line)
        if setting and setting[1] not in seen:
            seen.add(setting[1])
            assert "#" in line or "#" in above, line
    assert len(seen) > 20
