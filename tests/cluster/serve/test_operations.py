"""What an operator does to a running application: change its policy, roll out another checkpoint, take it down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import sleep

import httpx
import pytest
import torch
from ray import serve

from lts_ray.models.matformer.hugging_face.checkpoint import save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from serve.app import application
from serve.serve_args import ServeArgs
from tests.cluster.serve.conftest import Running


@pytest.fixture
def proxy(ray_serve: Running) -> str:
    return ray_serve.proxy


@pytest.fixture
def dashboard(ray_serve: Running) -> str:
    return ray_serve.dashboard


def ask(url: str, **fields: object) -> httpx.Response:
    body = {"model": "tiny", "prompt": "the nation", "max_tokens": 8, "temperature": 0, **fields}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=600)


def created(url: str) -> int:
    """When the replica that answers came up."""
    return int(httpx.get(f"{url}/v1/models", timeout=600).json()["data"][0]["created"])


def test_user_config_changes_the_policy_of_a_replica_that_goes_on(
    proxy: str, dashboard: str, model_dir: Path, tmp_path: Path
) -> None:
    """As `serve deploy` does it, with a file in which only user_config differs."""
    url, file = f"{proxy}/live", tmp_path / "serve.yaml"

    def deploy(user_config: dict[str, object]) -> None:
        application = {
            "name": "live",
            "route_prefix": "/live",
            "import_path": "serve.app:build",
            "args": {"model": str(model_dir), "name": "tiny"},
            "deployments": [{"name": "elastic", "user_config": user_config}],
        }
        file.write_text(json.dumps({"applications": [application]}))  # JSON is YAML
        command = [str(Path(sys.executable).parent / "serve"), "deploy", str(file), "--address", dashboard]
        subprocess.run(command, check=True, capture_output=True)

    def submodel() -> str:
        """Of a request that any submodel would serve in time."""
        return str(ask(url, latency_budget_ms=1e6).json()["lts"]["submodel"])

    deploy({"policy": "deadline"})
    while serve.status().applications["live"].status != "RUNNING":
        sleep(0.1)
    came_up = created(url)
    assert submodel() == "XL@int8"
    deploy({"policy": "fixed", "thresholds": {"submodel": "S"}})
    while submodel() != "S@int8":
        sleep(0.1)
    deploy({"policy": "no such policy"})
    sleep(2)  # it would have been taken over by now
    assert submodel() == "S@int8", "a config that does not fit changes nothing"
    assert created(url) == came_up
    serve.delete("live")


def test_another_checkpoint_is_rolled_out_and_then_taken_down_without_a_failed_request(
    proxy: str, model_dir: Path, universal: MatFormer, tmp_path: Path
) -> None:
    """One story, because each replica takes seconds. The other checkpoint lets a response be long."""
    other = tmp_path / "model"
    shutil.copytree(model_dir, other)
    model = MatFormer(replace(universal.config, context_length=5000))
    model.initialize(torch.Generator().manual_seed(99))
    save_checkpoint(model, other)
    url, over, statuses = f"{proxy}/rolled", Event(), list[int]()
    texts: list[list[str]] = [[], []]  # of each client

    def keep_asking(mine: list[str]) -> None:
        while not over.is_set():
            answer = ask(url)
            statuses.append(answer.status_code)
            mine.append(answer.json()["choices"][0]["text"])
            sleep(0.02)

    serve.run(application(ServeArgs(model=model_dir, name="tiny")), name="rolled", route_prefix="/rolled")
    before = ask(url).json()["choices"][0]["text"]
    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(keep_asking, mine) for mine in texts]
        while not all(texts):
            sleep(0.02)
        serve.run(application(ServeArgs(model=other, name="tiny")), name="rolled", route_prefix="/rolled")
        while (after := ask(url).json()["choices"][0]["text"]) == before:
            sleep(0.02)
        asked = list(map(len, texts))
        while any(len(mine) < many + 2 for mine, many in zip(texts, asked, strict=True)):
            sleep(0.02)  # the first of these may have been asked before
        over.set()
        for client in clients:
            client.result()
    assert set(statuses) == {200}
    assert [(mine[0], mine[-1]) for mine in texts] == [(before, after)] * 2

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, url, max_tokens=4500, ignore_eos=True)
        while httpx.get(f"{url}/health", timeout=600).json()["running"] == 0 and not answer.done():
            sleep(0.01)
        serve.delete("rolled")
        assert answer.result().status_code == 200
    assert answer.result().json()["usage"]["completion_tokens"] == 4500
