from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray

from lts_ray.architecture import Submodel
from lts_ray.errors import LtsRayError
from lts_ray.measurement.evaluation import Evaluation
from lts_ray.measurement.measure import Failed
from lts_ray.measurement.pool import Workload, start_pool
from lts_ray.models.matformer import MatFormer
from lts_ray.search.run import connected
from tests.cluster.actors import MortalActor, QuickActor, RecordingActor
from tests.cluster.conftest import TARGETS


@pytest.fixture
def driver(cluster: str) -> Iterator[None]:
    with connected(cluster):
        yield


def workload(model: MatFormer, actor_class: type, weights: Mapping[str, str] | None = None) -> Workload:
    return Workload(
        config=model.config, weights=ray.put(weights or {}), blocks=None, targets=TARGETS, actor_class=actor_class
    )


def evaluate(pool: Any, model: MatFormer, count: int = 1) -> list[Evaluation | Failed]:
    submodels = [Submodel((8 * (index + 1),) * model.config.n_layer) for index in range(count)]
    results: list[Evaluation | Failed] = ray.get([pool.evaluate.remote(each) for each in submodels])
    return results


@pytest.mark.usefixtures("driver")
def test_measurements_on_nodes_of_one_host_take_turns(universal: MatFormer, tmp_path: Path) -> None:
    """Five candidates at once on two targets: without the lock, the two actors' intervals overlap."""
    record = tmp_path / "record"
    pool = start_pool(workload(universal, RecordingActor, {"record": str(record)}))
    results = evaluate(pool, universal, 5)
    assert all(isinstance(each, Evaluation) and set(each.measurements) == {"edge", "server"} for each in results)
    lines = [line.split() for line in record.read_text(encoding="utf-8").splitlines()]
    intervals = sorted((float(begin), float(end)) for begin, end, *_ in lines)
    assert len(intervals) == 10
    assert all(before[1] <= after[0] for before, after in pairwise(intervals))
    assert ray.get(pool.hosts.remote()) == 1
    ray.kill(pool)


@pytest.mark.usefixtures("driver")
def test_an_actor_that_died_is_started_again_and_asked_again(universal: MatFormer, tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.write_text("1", encoding="utf-8")
    pool = start_pool(workload(universal, MortalActor, {"deaths": str(deaths)}))
    (result,) = evaluate(pool, universal)
    assert isinstance(result, Evaluation)
    deaths.write_text("4", encoding="utf-8")  # both targets' actors, twice each
    (result,) = evaluate(pool, universal)
    assert isinstance(result, Failed)
    assert "died twice" in result.reason
    assert "\n" not in result.reason
    (result,) = evaluate(pool, universal)
    assert isinstance(result, Evaluation)
    ray.kill(pool)


@pytest.mark.usefixtures("driver")
def test_a_target_without_a_node_is_one_clear_line(universal: MatFormer) -> None:
    lost = replace(TARGETS[0], name="gpu", label_selector={"role": "gpu"})
    begin = time.monotonic()
    with pytest.raises(LtsRayError, match=r"target 'gpu': no node matches label_selector \{'role': 'gpu'\}") as raised:
        start_pool(replace(workload(universal, QuickActor), targets=(*TARGETS, lost)))
    assert time.monotonic() - begin < 10
    assert "{'role': 'edge'}" in str(raised.value)
    assert "{'role': 'server'}" in str(raised.value)


@pytest.mark.usefixtures("driver")
def test_a_node_that_another_search_holds_is_waited_for_and_then_named(universal: MatFormer) -> None:
    pool = start_pool(workload(universal, QuickActor))
    with pytest.raises(LtsRayError, match="are in use, by another target or another job"):
        start_pool(workload(universal, QuickActor))
    ray.kill(pool)
