"""A checkpoint as it is published, whose parts are no models: what the endpoint says of them, and who gets them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lts_ray.checkpoints.universal import load_universal, vouched
from lts_ray.runtime.build_runtime import build_runtime
from serve.app import build
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.http.api import create_app
from serve.http.playground import playground_router
from serve.http.service import Service
from serve.policies.capacity import Capacity
from serve.policies.menu import menu_of_granularities
from serve.policies.named_policies import policy_named
from tests.serve.models import COSTS


@pytest.fixture(scope="module")
def plain_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers writes it: nothing of ours in config.json."""
    folder = tmp_path_factory.mktemp("plain") / "published"
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["lts_ray"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def client(plain_dir: Path, service: Service) -> Iterator[TestClient]:
    checkpoint = load_universal(plain_dir)
    config, losses = checkpoint.model.config, checkpoint.validation_loss
    engine = Engine(
        build_runtime(checkpoint.model, n_blocks=16, threads=1),
        menu=menu_of_granularities(config, losses, vouched=vouched(config, losses)),
        times=LearnedTimes(COSTS, attainment=None),
        policy=policy_named("deadline"),
        eos_ids=frozenset(),
        capacity=Capacity(slots=2, max_queue=4),
    )
    engine.start()
    plain = replace(service, engine=engine)
    with TestClient(create_app(plain, extra_routes=[playground_router(plain)])) as client:
        yield client
    engine.stop()


def test_no_budget_is_kept_by_a_part_that_was_never_trained(client: TestClient) -> None:
    body = {"model": "tiny", "prompt": "the nation", "max_tokens": 4, "latency_budget_ms": 0.5}
    report = client.post("/v1/completions", json=body).json()["lts"]
    assert (report["submodel"], report["tokens"]) == ("XL", {"XL": 4})
    assert "untrained" not in report


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_who_names_it_gets_it_and_is_told(client: TestClient, path: str) -> None:
    asked = {"prompt": "a"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}]}
    body = {"model": "tiny:S", "max_tokens": 4, "temperature": 0} | asked
    report = client.post(path, json=body).json()["lts"]
    assert (report["submodel"], report["tokens"], report["untrained"]) == ("S", {"S": 4}, True)
    several = client.post(path, json=body | {"n": 2}).json()["lts"]["choices"]
    assert [each["untrained"] for each in several] == [True, True]
    *_, last, _ = client.post(path, json=body | {"stream": True}).text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["lts"]["untrained"] is True


def test_the_list_of_models_and_the_playground_say_which_were_never_trained(client: TestClient) -> None:
    listed = {each["id"]: each["lts"] for each in client.get("/v1/models").json()["data"]}
    assert {name for name, told in listed.items() if told.get("untrained")} == {"tiny:S", "tiny:M", "tiny:L"}
    assert {told["loss"] for told in listed.values()} == {None}
    options = client.get("/playground/frontier").json()["options"]
    assert {each["name"]: (each["elastic"], each["untrained"]) for each in options} == {
        "XL": (True, False),
        "L": (False, True),
        "M": (False, True),
        "S": (False, True),
    }


def test_serve_run_says_so_in_a_line_and_names_the_remedy(
    plain_dir: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build({"model": str(plain_dir)})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: S, M, L of {plain_dir} were never trained")
    assert "`lts-ray elasticize`" in line
    build({"model": str(model_dir)})
    assert capsys.readouterr().err == ""
