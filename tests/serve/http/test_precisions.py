"""A replica that serves widths in 8 and 4 bits: what it lists, what a name pins, and what its answers say of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.quantisation.quantised_weights import at_precision
from lts_ray.record import read_record
from serve.policies.menu import menu_of_granularities
from serve.policies.request import Request
from serve.replica import Replica, build_replica
from serve.routes import Routes
from serve.serve_args import ServeArgs
from tests.serve.models import COSTS, alone

NAMES = ("S", "M", "L", "XL")


@pytest.fixture(scope="module")
def replica(model_dir: Path) -> Iterator[Replica]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("serve.replica.measure_step_costs", lambda runtime, *, seconds: COSTS)
        patched.setattr("serve.replica.REHEARSAL_S", 0.0)
        replica = build_replica(_args(model_dir), {})
    yield replica
    replica.engine.stop()


def _args(model_dir: Path) -> ServeArgs:
    return read_record(ServeArgs, {"model": model_dir, "name": "tiny", "precisions": "int4,int8"})


@pytest.fixture(scope="module")
def client(replica: Replica, model_dir: Path) -> Iterator[TestClient]:
    routes = Routes.around(replica.engine, _args(model_dir), replica.tokenizer)
    with TestClient(routes.app(replica.metrics.exposition)) as client:
        yield client


def test_every_name_is_listed_and_says_its_precision(client: TestClient) -> None:
    listed = {each["id"]: each["lts"] for each in client.get("/v1/models").json()["data"]}
    assert set(listed) == {"tiny"} | {f"tiny:{name}{at}" for name in NAMES for at in ("", "@int8", "@int4")}
    assert (listed["tiny"]["submodel"], listed["tiny"]["precision"]) == ("XL@int8", "int8")
    assert listed["tiny:S"] == listed["tiny:S@int8"] == client.get("/v1/models/tiny:S@int8").json()["lts"]
    assert listed["tiny:S@int4"] == listed["tiny:S"] | {"submodel": "S@int4", "precision": "int4"}
    assert {told["loss"] for told in listed.values()} == {None}, "those of float32 are not theirs"


@pytest.mark.parametrize(
    ("model", "submodel"), [("tiny", "XL@int8"), ("tiny:S", "S@int8"), ("tiny:M@int8", "M@int8"), ("tiny:S@int4",) * 2]
)
def test_a_name_pins_width_and_precision(
    client: TestClient, replica: Replica, model_dir: Path, model: str, submodel: str
) -> None:
    submodel = submodel.removeprefix("tiny:")
    body = {"model": model, "prompt": "the nation", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body).json()
    assert (answer["lts"]["submodel"], answer["lts"]["tokens"]) == (submodel, {submodel: 6})
    stored, (width, _, precision) = load_checkpoint(model_dir).model, submodel.partition("@")
    prompt = replica.tokenizer.encode("the nation")
    option = replica.engine.menu.named[submodel]
    assert option.submodel == stored.config.submodel(submodel)
    plain = Request(prompt=tuple(prompt), max_tokens=6, pinned=menu_of_granularities(stored.config, {}).named[width])
    expected = alone(at_precision(stored, precision), plain, eos_ids=())
    assert answer["choices"][0]["text"] == replica.tokenizer.decode(expected)


@pytest.mark.parametrize("name", ["tiny:S@float32", "tiny:S@int3", "tiny:XXL@int8", "tiny:@int8", "tiny@int8"])
def test_a_precision_that_is_not_served_is_a_model_that_does_not_exist(client: TestClient, name: str) -> None:
    answer = client.post("/v1/completions", json={"model": name, "prompt": "a"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "model_not_found")
    assert "tiny:S@int4" in error["message"]


def test_metrics_count_tokens_by_name_with_precision_and_the_page_shows_each_option_once(client: TestClient) -> None:
    before = _counted(client)
    assert set(before) == {f"{name}@{at}" for name in NAMES for at in ("int8", "int4")}
    client.post("/v1/completions", json={"model": "tiny:L@int4", "prompt": "a", "max_tokens": 3, "ignore_eos": True})
    assert _counted(client) == before | {"L@int4": before["L@int4"] + 3}
    points = client.get("/playground/frontier").json()
    assert points["universal"] == "XL@int8"
    assert {each["name"] for each in points["options"]} == set(before)


def _counted(client: TestClient) -> dict[str, float]:
    found = re.findall(r'^lts:submodel_tokens_total{.*submodel="([^"]+)".*} (\S+)$', client.get("/metrics").text, re.M)
    return {name: float(count) for name, count in found}
