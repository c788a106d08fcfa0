"""A fleet of two kinds behind one ingress, as `serve deploy` builds it: one story, because replicas take seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.util import list_named_actors

from lts_ray.checkpoints.universal import universal_fingerprint
from lts_ray.decoding.sampling import Sampling
from lts_ray.frontier import Frontier, FrontierPoint, write_frontier
from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint, save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from lts_ray.target import Target
from lts_ray.text.tokenizer import load_tokenizer
from serve.http.keys import line_of, make_key
from serve.policies.request import Request
from tests.cluster.serve.conftest import Running
from tests.serve.models import alone

LONG = 4_000
"""Tokens of a response in whose middle something happens."""


@dataclass
class Deployed:
    url: str
    key: str
    model: Path
    _dashboard: str
    _folder: Path

    def deploy(self, *, small: int, user_config: dict[str, Any], **args: Any) -> None:
        frontier, keys = self._folder / "frontier.json", self._folder / "keys"
        given = {"model": str(self.model), "name": "tiny", "frontier": str(frontier), "keys": str(keys)}
        application = {
            "name": "fleet",
            "route_prefix": "/fleet",
            "import_path": "serve.app:build",
            "args": given | {"kinds": "small,large", "anywhere": True, "drain_s": 300, **args},
            "deployments": [
                {"name": "elastic", "user_config": user_config},
                {"name": "small", "num_replicas": small},
            ],
        }
        # What `serve deploy` does with a file.
        httpx.put(
            f"{self._dashboard}/api/serve/applications/", json={"applications": [application]}, timeout=600
        ).raise_for_status()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {self.key}", **headers}, timeout=600)

    def ask(self, **fields: object) -> dict[str, Any]:
        body = {"model": "tiny", "prompt": "the nation", "temperature": 1, "seed": 7, "ignore_eos": True, **fields}
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, headers=headers, timeout=None)
        assert answer.status_code == 200, answer.text
        read: dict[str, Any] = answer.json()
        return read

    def stream(self, began: Event, **fields: object) -> tuple[str, dict[str, Any]]:
        """The text, and `lts` of its end. began: set with the first token."""
        body = {"model": "tiny", "prompt": "the nation", "temperature": 1, "seed": 7, "ignore_eos": True, **fields}
        headers, text, lts = {"Authorization": f"Bearer {self.key}"}, "", {}
        with httpx.stream(
            "POST", f"{self.url}/v1/completions", json=body | {"stream": True}, headers=headers, timeout=None
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    assert "error" not in chunk, chunk
                    text += "".join(choice["text"] for choice in chunk["choices"])
                    lts = chunk.get("lts") or lts
                    began.set()
        return text, lts

    def metric(self, name: str, **labels: str) -> float:
        """The sum of its series that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(name + "{")]
        return sum(float(line.split()[-1]) for line in lines if all(each in line for each in wanted))

    def await_replicas(self, **counts: int) -> None:
        """Until that is all there are, of each deployment."""

        def states() -> dict[str, dict[str, int]]:
            found = serve.status().applications["fleet"].deployments
            return {name: dict(found[name].replica_states) for name in counts}

        while states() != {name: {"RUNNING": count} for name, count in counts.items()}:
            sleep(0.1)


@pytest.fixture(scope="module")
def fleet(
    ray_serve: Running, model_dir: Path, universal: MatFormer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("fleet")
    model_folder = Path(shutil.copytree(model_dir, folder / "model"))
    model = MatFormer(replace(universal.config, context_length=2 * LONG))
    model.load_state_dict(universal.state_dict())
    losses = {"S": 5.4, "M": 5.3, "L": 5.2, "XL": 5.1}
    save_checkpoint(model, model_folder, validation_loss=losses)
    targets = {name: Target(name=name, label_selector={"role": name}) for name in ("small", "large")}
    points = [
        FrontierPoint(
            name=name,
            submodel=submodel,
            decoder_params=model.config.decoder_params(submodel),
            loss=losses[name],
            costs={},
            fronts=tuple(targets),
        )
        for name, submodel in reversed(model.config.trained.items())
    ]
    frontier = Frontier(
        model_fingerprint=universal_fingerprint(model_folder),
        quality="validation_loss",
        targets=targets,
        points=tuple(points),
    )
    write_frontier(frontier, folder / "frontier.json")
    key = make_key()
    (folder / "keys").write_text(line_of(key, "alice"))
    deployed = Deployed(f"{ray_serve.proxy}/fleet", key, model_folder, ray_serve.dashboard, folder)
    deployed.deploy(small=1, user_config={"policy": "deadline"})
    while "fleet" not in serve.status().applications or serve.status().applications["fleet"].status != "RUNNING":
        sleep(0.1)
    yield deployed
    serve.delete("fleet")


@pytest.fixture(scope="module")
def undisturbed(fleet: Deployed) -> str:
    text: str = fleet.ask(max_tokens=LONG)["choices"][0]["text"]
    return text


def process_of(kind: str) -> int | None:
    """Of the one replica that there is; None while that is not so."""
    names = [str(actor["name"]) for actor in list_named_actors(all_namespaces=True)]
    found = [name for name in names if name.startswith(f"SERVE_REPLICA::fleet#{kind}#")]
    try:
        actors = [ray.get_actor(name, SERVE_NAMESPACE) for name in found]
        (pid,) = ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in actors])
    except (ValueError, RayError):
        return None
    return int(pid)


def test_an_answer_is_that_of_the_model_alone_and_says_who_gave_it(fleet: Deployed) -> None:
    model, tokenizer = load_checkpoint(fleet.model).model, load_tokenizer(fleet.model)
    request = Request(
        prompt=tuple(tokenizer.encode("the nation")),
        max_tokens=30,
        sampling=Sampling(temperature=1),
        seed=7,
        ignore_eos=True,
    )
    answer = fleet.ask(max_tokens=30)
    assert answer["choices"][0]["text"] == tokenizer.decode(alone(model, request, eos_ids=()))
    assert answer["lts"]["kind"] in ("small", "large")
    assert answer["lts"]["replica"]


def test_the_fleet_speaks_the_whole_api(fleet: Deployed) -> None:
    fleet.await_replicas(small=1, large=1, elastic=1)
    fleet.ask(max_tokens=2)
    names = [model["id"] for model in fleet.get("/v1/models").json()["data"]]
    assert names == ["tiny", "tiny:XL", "tiny:L", "tiny:M", "tiny:S"]
    assert httpx.get(f"{fleet.url}/v1/models", timeout=600).status_code == 401
    while fleet.get("/health").json() != {"status": "ok", "running": 0, "waiting": 0}:
        sleep(0.1)
    assert fleet.get("/playground").status_code == 200
    assert len(fleet.get("/playground/frontier").json()["options"]) == 4
    for kind in ("small", "large"):
        while fleet.metric("lts:replicas", node_kind=kind, state="ready") != 1:
            sleep(0.1)
    while sum(fleet.metric("vllm:generation_tokens_total", node_kind=kind) for kind in ("small", "large")) < 2:
        sleep(0.1)


def test_streams_of_a_replica_that_is_killed_go_on_elsewhere_token_by_token(fleet: Deployed, undisturbed: str) -> None:
    """Once more where all had ended before, on a busy machine."""
    moved = 0
    while not moved:
        while len(processes := {kind: pid for kind in ("small", "large") if (pid := process_of(kind))}) < 2:
            sleep(0.1)
        began = [Event() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            streams = [pool.submit(fleet.stream, event, max_tokens=LONG) for event in began]
            for event in began:
                event.wait()
            kind = max(processes, key=lambda kind: fleet.metric("vllm:num_requests_running", node_kind=kind))
            os.kill(processes[kind], signal.SIGKILL)
            ended = [stream.result() for stream in streams]
        assert {text for text, _ in ended} == {undisturbed}
        moved = sum(lts["migrations"] for _, lts in ended)
    assert moved <= fleet.metric("lts:migrations_total")
    assert fleet.metric("lts:migrations_total", node_kind=kind, reason="died") >= 1


def test_another_policy_reaches_all_replicas_and_fewer_of_them_lose_nothing(fleet: Deployed, undisturbed: str) -> None:
    fleet.await_replicas(small=1, large=1)  # the one that was killed has a successor
    fixed = {"policy": "fixed", "thresholds": {"submodel": "S"}}
    fleet.deploy(small=2, user_config=fixed)
    fleet.await_replicas(small=2, large=1)
    narrow = {"max_tokens": 1, "latency_budget_ms": 1e6}
    with ThreadPoolExecutor(12) as pool:
        while {each["lts"]["submodel"] for each in pool.map(lambda _: fleet.ask(**narrow), range(12))} != {"S"}:
            sleep(0.1)
        fleet.deploy(small=2, user_config={"policy": "deadline"})
        began = [Event() for _ in range(8)]
        streams = [pool.submit(fleet.stream, event, max_tokens=LONG, model="tiny:XL") for event in began]
        for event in began:
            event.wait()
        fleet.deploy(small=1, user_config={"policy": "deadline"})
        ended = [stream.result() for stream in streams]
    assert {text for text, _ in ended} == {undisturbed}
    fleet.await_replicas(small=1, large=1)
    assert fleet.metric("lts:migrations_total", reason="draining") == 0, "they ended where they were"


def test_other_arguments_are_rolled_out_without_a_failed_request(fleet: Deployed, undisturbed: str) -> None:
    def created() -> int:
        return int(fleet.get("/v1/models").json()["data"][0]["created"])

    over, began, before = Event(), Event(), created()

    def keep_asking() -> None:
        while not over.is_set():
            fleet.ask(max_tokens=4)

    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(keep_asking) for _ in range(2)]
        stream = pool.submit(fleet.stream, began, max_tokens=LONG)
        began.wait()
        fleet.deploy(small=1, user_config={"policy": "deadline"}, max_queue=32)
        while created() == before:
            sleep(0.1)
        fleet.await_replicas(small=1, large=1, elastic=1)
        over.set()
        for client in clients:
            client.result()
        assert stream.result()[0] == undisturbed
