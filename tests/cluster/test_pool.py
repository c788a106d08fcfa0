"""A pool of real actors on the simulated cluster: one for all tests, since each of its processes takes seconds."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from lts_ray.errors import LtsRayError
from lts_ray.evaluation.validation_loss import validation_loss
from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray import pool as pool_module
from lts_ray.measurement.on_ray.pool import LOSS, MeasurementPool, cluster_nodes, start_pool
from lts_ray.measurement.outcome import Evaluation
from lts_ray.measurement.subjects.submodel_subject import UniversalSource
from lts_ray.measurement.workload import Workload
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.ray_session import connected
from lts_ray.submodel import Submodel
from tests.cluster.actors import QuickActor, ScriptedActor
from tests.cluster.conftest import TARGETS

BLOCKS = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the actors: what they do, and what they did."""
    made = tmp_path_factory.mktemp("actors")
    (made / "deaths").write_text("0", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def pool(cluster: str, universal: MatFormer, folder: Path) -> Iterator[Any]:
    actor = type("FolderActor", (ScriptedActor,), {"folder": str(folder)})
    weights = {name: value.numpy() for name, value in universal.state_dict().items()}
    source = UniversalSource(universal.config)
    with connected(cluster):
        work = Workload(source=source, payload=weights, blocks=BLOCKS.numpy(), actor_class=actor)
        pool = start_pool(work, TARGETS)
        yield pool
        ray.kill(pool)


def evaluate(pool: Any, count: int = 1) -> list[Evaluation | Failed]:
    results: list[Evaluation | Failed] = ray.get(
        [pool.evaluate.remote(Submodel((8 * (index + 1),) * 3), 2.5) for index in range(count)]
    )
    return results


def test_a_loss_that_is_no_number_or_missing_is_found_out_before_anything_is_measured() -> None:
    pool = MeasurementPool(Workload(source=None), TARGETS, "")
    assert asyncio.run(pool.evaluate(Submodel((8,)), float("nan"))) == Failed(reason="its loss is nan")
    with pytest.raises(LtsRayError, match="this pool computes no loss"):
        asyncio.run(pool.evaluate(Submodel((8,))))


def test_measurements_on_nodes_of_one_host_take_turns(pool: Any, folder: Path) -> None:
    """Five candidates at once on two targets: without the lock, the two actors' intervals overlap."""
    before = {each.target: each.measured for each in ray.get(pool.status.remote()).workers}
    (folder / "record").unlink(missing_ok=True)
    results = evaluate(pool, 5)
    assert all(isinstance(each, Evaluation) and set(each.measurements) == {"edge", "server"} for each in results)
    assert all(isinstance(each, Evaluation) and each.loss == 2.5 for each in results)
    lines = [line.split() for line in (folder / "record").read_text(encoding="utf-8").splitlines()]
    intervals = sorted((float(begin), float(end)) for begin, end, *_ in lines)
    assert len(intervals) == 10
    assert all(before[1] <= after[0] for before, after in pairwise(intervals))
    status = ray.get(pool.status.remote())
    assert len({worker.host for worker in status.workers}) == 1
    assert status.messages == ()
    loss, *measuring = status.workers
    assert loss.target == LOSS
    assert [(each.target, each.state, each.measured - before[each.target]) for each in measuring] == [
        ("edge", "idle", 5),
        ("server", "idle", 5),
    ]
    assert [each.labels for each in measuring] == [{"role": "edge"}, {"role": "server"}]
    assert all(0 < each.utilisation < 1 for each in measuring)


def test_an_actor_that_died_is_started_again_and_asked_again_and_one_that_raised_is_not(
    pool: Any, folder: Path
) -> None:
    deaths = folder / "deaths"
    deaths.write_text("1", encoding="utf-8")
    (result,) = evaluate(pool)
    assert isinstance(result, Evaluation)
    deaths.write_text("4", encoding="utf-8")  # both targets' actors, twice each
    (result,) = evaluate(pool)
    assert isinstance(result, Failed)
    assert "died twice" in result.reason
    assert "\n" not in result.reason
    (result,) = evaluate(pool)
    assert isinstance(result, Evaluation)
    raised = ray.get(pool.evaluate.remote(Submodel((13,)), 1.0))
    assert raised == Failed(reason="target 'edge': ValueError: no such submodel")


def test_the_pool_computes_losses_again_after_its_loss_actor_died(pool: Any, universal: MatFormer) -> None:
    actors = ray._private.state.actors().values()
    (pid,) = (each["Pid"] for each in actors if "LossActor" in each["ActorClassName"] and each["State"] == "ALIVE")
    os.kill(pid, signal.SIGKILL)
    submodel = Submodel((64, 32, 16))
    result = ray.get(pool.evaluate.remote(submodel))
    assert result.loss == pytest.approx(validation_loss(universal, BLOCKS, submodel))
    assert [each.target for each in ray.get(pool.status.remote()).workers] == [LOSS, "edge", "server"]


@pytest.mark.usefixtures("pool")
def test_a_target_without_a_node_is_one_clear_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PLACEMENT_S", 1e9)  # what labels do not have is not waited for
    lost = replace(TARGETS[0], name="gpu", label_selector={"role": "gpu"})
    with pytest.raises(LtsRayError, match=r"target 'gpu': no node matches label_selector \{'role': 'gpu'\}") as raised:
        start_pool(Workload(source=None, actor_class=QuickActor), (lost, *TARGETS))
    assert "{'role': 'edge'}" in str(raised.value)
    assert "{'role': 'server'}" in str(raised.value)


@pytest.mark.usefixtures("pool")
def test_a_node_that_another_search_holds_is_waited_for_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only sleeping moves."""
    looks, now = [], [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(pool_module, "cluster_nodes", lambda: looks.append(cluster_nodes()) or looks[-1])
    with pytest.raises(LtsRayError, match="are in use, by another target or another job"):
        start_pool(Workload(source=None, actor_class=QuickActor), TARGETS)
    assert len(looks) > 1
    assert now[0] > pool_module.PLACEMENT_S
