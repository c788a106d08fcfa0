"""A cluster that grows: Ray's fake nodes and its autoscaler of version 2, as `ray up` and KubeRay start it.

One cluster for all, and one story, because each of its nodes takes seconds to come and to go.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
import ray
from ray import serve
from ray._private.ray_constants import PROCESS_TYPE_MONITOR
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.cluster_utils import Cluster

from lts_ray.checkpoints.universal import universal_fingerprint
from lts_ray.frontier import Frontier, FrontierPoint, write_frontier
from lts_ray.measurement.measurement import Failed
from lts_ray.measurement.on_ray.pool import MeasurementPool
from lts_ray.measurement.workload import Workload
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.ray_session import NICENESS, connected
from lts_ray.search.algorithms.search_settings import SearchSettings
from lts_ray.search.backbone_search import backbone_job
from lts_ray.search.on_ray.search_run import run_search
from lts_ray.spaces import gpt2_space as gpt2
from lts_ray.target import Target
from serve.fleet.node_kind import NodeKind
from serve.ray_fleet import fleet_application
from serve.serve_args import ServeArgs
from tests.cluster.actors import ArchitectureActor, QuickActor
from tests.free_port import free_port

SMALL = Target(name="small", label_selector={"role": "in(small)"}, resources={"small": 1})
LARGE = Target(name="large", label_selector={"role": "large"})
NOWHERE = Target(name="nowhere", label_selector={"role": "nowhere"}, threads=2)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            **{
                name: {
                    "resources": {"CPU": 1, name: 1},
                    "labels": {"role": name},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": 1,
                }
                for name in ("small", "large")
            },
        },
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
    file = tmp_path_factory.mktemp("autoscaler") / "cluster.json"
    file.write_text(json.dumps(config))
    head = {
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv(NICENESS, "0")
        for name, value in head.items():
            environment.setenv(name, value)
        started = {"num_cpus": 2, "include_dashboard": False, "gcs_server_port": port, "autoscaling_config": str(file)}
        cluster = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=started)
        for name in head:
            environment.delenv(name)
        try:
            yield str(cluster.address)
        finally:
            ray.shutdown()
            (autoscaler,) = cluster.head_node.all_processes[PROCESS_TYPE_MONITOR]
            of_nodes = psutil.Process(autoscaler.process.pid).children(recursive=True)  # which outlive it
            cluster.shutdown()
            for process in of_nodes:
                if process.is_running():
                    process.kill()


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.1)


def roles() -> list[str]:
    """Of the nodes beside the head."""
    return sorted(node["Labels"]["role"] for node in ray.nodes() if node["Alive"] and "role" in node["Labels"])


def test_a_search_brings_the_node_that_its_target_wants_and_lets_it_go(address: str, tmp_path: Path) -> None:
    settings = SearchSettings(evaluations=6, in_flight=2, quality="decoder_params")
    job = backbone_job(space=gpt2.SPACE, targets=(SMALL,), settings=settings)
    job = replace(job, workload=replace(job.workload, actor_class=ArchitectureActor))
    with connected(address):
        assert roles() == []
        session = run_search(job, tmp_path / "search", progress=False)
        assert len(session.evaluated) == 6
        came = {node["Labels"].get("role") for node in ray.nodes()}  # it may be gone again
        assert came - {None} == {"small"}
        until(lambda: roles() == [])


def test_a_target_that_the_autoscaler_has_no_node_for_is_refused_and_until_then_it_is_said_what_is_asked_for(
    address: str,
) -> None:
    workload = Workload(source=None, payload=None, actor_class=QuickActor)

    def started() -> Failed | None:
        pool = ray.remote(MeasurementPool).options(num_cpus=0).remote(workload, (NOWHERE,), here, grows=True)
        starting = pool.start.remote()
        said = (
            "target 'nowhere' has no node now: evaluations will wait for one that matches {'role': 'nowhere'}; "
            "the cluster's autoscaler is asked for one"
        )
        until(lambda: ray.get(pool.status.remote()).messages == (said,))
        failure: Failed | None = ray.get(starting)
        ray.kill(pool)
        return failure

    refused = Failed(
        reason="target 'nowhere': no node with {'CPU': 2.0} that matches label_selector {'role': 'nowhere'} is free, "
        "and the cluster's autoscaler has no such kind of node, or may start no more of them"
    )
    with connected(address):
        here = ray.get_runtime_context().get_node_id()
        until(lambda: started() == refused)  # at once, where the machine is not so busy that the autoscaler is late


def test_an_endpoint_brings_the_nodes_of_its_kinds_and_lets_them_go(
    address: str, model_dir: Path, universal: MatFormer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frontier = Frontier(
        model_fingerprint=universal_fingerprint(model_dir),
        quality="validation_loss",
        targets={target.name: target for target in (SMALL, LARGE)},
        points=tuple(
            FrontierPoint(
                name=name,
                submodel=submodel,
                decoder_params=universal.config.decoder_params(submodel),
                loss=5.0,
                costs={},
                fronts=("small", "large"),
            )
            for name, submodel in reversed(universal.config.trained.items())
        ),
    )
    write_frontier(frontier, tmp_path / "frontier.json")
    args = ServeArgs(model=model_dir, frontier=tmp_path / "frontier.json", kinds=("small", "large"), name="tiny")
    kinds = (NodeKind(name="small"), NodeKind(name="large", min_replicas=0, max_replicas=1))
    port = free_port()
    with connected(address):
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        application = fleet_application(args, kinds)
        said = capsys.readouterr().err
        assert "warning: the cluster's autoscaler is to bring nodes: replicas of kind 'small' on nodes with" in said
        assert roles() == []
        serve.run(application, name="fleet", route_prefix="/")
        body = {"model": "tiny", "prompt": "the nation", "max_tokens": 3}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=600)
        assert answer.json()["lts"]["kind"] == "small", answer.text
        assert roles() == ["small"]
        serve.delete("fleet")
        until(lambda: roles() == [])
        serve.shutdown()
