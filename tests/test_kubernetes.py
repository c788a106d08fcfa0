"""The manifests have fields that KubeRay 1.7 knows, and what they name of this repository is there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from lts_ray.cli.main import app
from lts_ray.record import read_record
from serve.ray_command import _read
from serve.ray_scaling import FleetScaling
from serve.serve_args import ServeArgs

ANY: Any = None
"""Of a field whose content is Kubernetes' own, or the user's."""
POD = {
    "spec*": {
        "restartPolicy*": ANY,
        "terminationGracePeriodSeconds": ANY,
        "volumes": [{"name*": ANY, "persistentVolumeClaim*": {"claimName*": ANY, "readOnly": ANY}}],
        "containers*": [
            {
                "name*": ANY,
                "image*": ANY,
                "env": [{"name*": ANY, "value*": ANY}],
                "ports": [{"name*": ANY, "containerPort*": ANY}],
                "resources*": {"requests*": ANY, "limits*": ANY},
                "volumeMounts": [{"name*": ANY, "mountPath*": ANY, "readOnly": ANY}],
            }
        ],
    }
}
GROUP = {"labels*": ANY, "resources": ANY, "rayStartParams*": ANY, "template*": POD}
CLUSTER = {
    "rayVersion*": ANY,
    "enableInTreeAutoscaling*": ANY,
    "autoscalerOptions*": {"version*": ANY, "idleTimeoutSeconds": ANY},
    "headGroupSpec*": GROUP,
    "workerGroupSpecs*": [
        GROUP
        | {
            "groupName*": ANY,
            "replicas*": ANY,
            "minReplicas*": ANY,
            "maxReplicas*": ANY,
            "idleTimeoutSeconds": ANY,
            "priority": ANY,
        }
    ],
}
HEADER = {"apiVersion*": ANY, "kind*": ANY, "metadata*": {"name*": ANY}}
KINDS = {
    "RayService": HEADER
    | {
        "spec*": {
            "serveConfigV2*": ANY,
            "rayClusterConfig*": CLUSTER,
            "upgradeStrategy": {"type*": ANY, "clusterUpgradeOptions": ANY},
            "rayClusterDeletionDelaySeconds": ANY,
            "excludeHeadPodFromServeSvc": ANY,
            "serveService": ANY,
            "suspend": ANY,
        }
    },
    "RayJob": HEADER
    | {
        "spec*": {
            "entrypoint*": ANY,
            "runtimeEnvYAML": ANY,
            "rayClusterSpec*": CLUSTER,
            "submissionMode": ANY,
            "shutdownAfterJobFinishes": ANY,
            "ttlSecondsAfterFinished": ANY,
            "backoffLimit": ANY,
            "activeDeadlineSeconds": ANY,
            "preRunningDeadlineSeconds": ANY,
            "deletionStrategy": ANY,
            "suspend": ANY,
        }
    },
    "PersistentVolumeClaim": HEADER | {"spec*": {"accessModes*": ANY, "resources*": {"requests*": ANY}}},
}
"""Fields by name; with a star those that the manifest, or what is said of it in the docs, cannot do without."""


def problems(value: Any, schema: Any, place: str) -> Iterator[str]:
    if isinstance(schema, list):
        for number, each in enumerate(value):
            yield from problems(each, schema[0], f"{place}[{number}]")
    elif schema is not ANY:
        known = {name.removesuffix("*"): inner for name, inner in schema.items()}
        yield from (f"{place}.{name} is not known" for name in value.keys() - known.keys())
        yield from (f"{place} lacks {name}" for name in known if f"{name}*" in schema and name not in value)
        for name in value.keys() & known.keys():
            yield from problems(value[name], known[name], f"{place}.{name}")


def documents(name: str) -> dict[str, Any]:
    """Of a manifest, by their kind."""
    found = yaml.safe_load_all(Path(f"k8s/{name}.yaml").read_text(encoding="utf-8"))
    return {each["kind"]: each for each in found}


def clusters() -> list[dict[str, Any]]:
    service, job = documents("rayservice")["RayService"], documents("rayjob")["RayJob"]
    return [service["spec"]["rayClusterConfig"], job["spec"]["rayClusterSpec"]]


@pytest.mark.parametrize(
    ("name", "kinds"), [("rayservice", ["RayService"]), ("rayjob", ["PersistentVolumeClaim", "RayJob"])]
)
def test_every_field_is_one_that_kuberay_knows_and_none_is_missing(name: str, kinds: list[str]) -> None:
    found = documents(name)
    assert sorted(found) == kinds
    assert [each for kind, manifest in found.items() for each in problems(manifest, KINDS[kind], kind)] == []
    assert {manifest["apiVersion"] for kind, manifest in found.items() if kind.startswith("Ray")} == {"ray.io/v1"}


def test_a_wrong_field_would_be_found() -> None:
    manifest = documents("rayservice")["RayService"]
    group = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]
    group["label"] = group.pop("labels")
    place = "RayService.spec.rayClusterConfig.workerGroupSpecs[1]"
    found = list(problems(manifest, KINDS["RayService"], "RayService"))
    assert found == [f"{place}.label is not known", f"{place} lacks labels"]


@pytest.mark.parametrize("cluster", clusters(), ids=["service", "job"])
def test_the_autoscaler_is_the_one_that_scales_for_labels_and_may_replace_pods(cluster: dict[str, Any]) -> None:
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    pins = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        claims = {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == claims
    for group in cluster["workerGroupSpecs"]:
        assert group["labels"] == {"role": group["groupName"]}
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
    launched = yaml.safe_load(Path("cluster.yaml").read_text(encoding="utf-8"))["available_node_types"]
    assert {group["groupName"] for group in cluster["workerGroupSpecs"]} <= launched.keys(), "names of the docs"


def test_what_is_served_is_what_serve_takes_on_kinds_that_groups_of_workers_have(tmp_path: Path) -> None:
    spec = documents("rayservice")["RayService"]["spec"]
    groups = spec["rayClusterConfig"]["workerGroupSpecs"]
    kinds = [{"name": group["groupName"]} for group in groups]
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump({"kinds": kinds}))
    file = tmp_path / "serve.yaml"
    file.write_text(spec["serveConfigV2"].replace("/data", str(tmp_path)))
    config = _read(file)  # by Ray Serve's own schema; unknown keys are refused
    (application,) = config.applications
    module, name = application.import_path.split(":")
    assert callable(getattr(import_module(module), name))
    args = read_record(ServeArgs, application.args)
    policy = application.autoscaling_policy
    module, name = policy["policy_function"].split(":")
    assert isinstance(getattr(import_module(module), name)(**policy["policy_kwargs"]), FleetScaling)
    most = {each.name: each.autoscaling_config["max_replicas"] for each in application.deployments}
    assert most == {group["groupName"]: group["maxReplicas"] for group in groups}, "a pod holds one replica"
    assert [kind.target_name for kind in args.node_kinds()] == [group["labels"]["role"] for group in groups]
    for group in (spec["rayClusterConfig"]["headGroupSpec"], *groups):
        pod = group["template"]["spec"]
        assert spec["rayClusterDeletionDelaySeconds"] >= pod["terminationGracePeriodSeconds"] > args.drain_s
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert mount["mountPath"] == "/data"
    for path in (args.model, args.frontier, args.fleet):
        assert path is not None
        assert path.is_relative_to(tmp_path)
    ports = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    assert {"name": "serve", "containerPort": config.http_options.port} in ports


def test_the_search_is_one_command_that_goes_on_from_the_volume(tmp_path: Path) -> None:
    spec = documents("rayjob")["RayJob"]["spec"]
    pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    program, verb, *words = shlex.split(spec["entrypoint"].replace(mount["mountPath"], str(tmp_path)))
    assert program == "lts-ray"
    search: Any = typer.main.get_command(app)
    given = search.commands[verb].make_context(verb, words).params
    assert given["resume"]
    assert given["output"].is_relative_to(tmp_path)
    assert given["address"] == "auto"
    assert spec["backoffLimit"] > 0
    claim = documents("rayjob")["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "another machine goes on with it"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        cpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
        assert group["resources"] == {"CPU": cpus, group["groupName"]: "1"}


def test_the_image_is_built_of_what_is_there() -> None:
    lines = [line.split() for line in Path("k8s/Dockerfile").read_text(encoding="utf-8").splitlines()]
    sources = [source for line in lines if line[:1] == ["COPY"] for source in line[1:-1]]
    assert {"pyproject.toml", "constraints.txt", "lts_ray", "serve"} <= set(sources)
    assert [source for source in sources if not Path(source).exists()] == []
