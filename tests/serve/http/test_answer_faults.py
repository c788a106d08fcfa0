"""A fault at each stage between the model's logits and the wire: every client gets an error in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lts_ray.decoding.sampler import Sampler
from lts_ray.errors import LtsRayError
from lts_ray.runtime.torch_runtime import TorchRuntime
from lts_ray.text.spelling import Spelling
from lts_ray.text.text_stream import TextStream
from lts_ray.text.tokenizer import load_tokenizer
from serve.engine.observer import Load
from serve.http.answers import Answers
from serve.http.api import create_app
from serve.http.generation import Choices, Generation
from serve.http.response_text import ResponseText
from serve.http.service import Service
from serve.metrics.prometheus_metrics import PrometheusMetrics
from tests.serve.metrics.test_prometheus_metrics import scraped
from tests.serve.models import tiny_engine, tiny_model, tiny_runtime

ANY = {"temperature": 1.0, "seed": 1, "max_tokens": 6, "ignore_eos": True}
PATHS = {
    "completions": {"prompt": "the nation", "logprobs": 2},
    "chat/completions": {"messages": [{"role": "user", "content": "the war"}], "logprobs": True, "top_logprobs": 2},
}


@dataclass(frozen=True)
class Stage:
    """A method of ours, and at which of its calls it fails."""

    owner: type
    name: str
    call: int = 3
    streamed: tuple[bool, ...] = (False, True)
    paths: Collection[str] = tuple(PATHS)


STAGES = {
    "the model": Stage(TorchRuntime, "run"),
    "sampling": Stage(Sampler, "choose"),
    "the tokenizer, token by token": Stage(TextStream, "step"),
    "the tokenizer, at the end": Stage(TextStream, "finish", 1),
    "held back text": Stage(ResponseText, "push"),
    "the rest of the text": Stage(ResponseText, "finish", 1),
    "log probabilities": Stage(Answers, "_logprobs", 1),
    "names of tokens": Stage(Spelling, "name_of", paths=("completions",)),
    "texts of tokens": Stage(Spelling, "text_of", 1, paths=("chat/completions",)),
    "the first chunk": Stage(Answers, "first", 1, streamed=(True,)),
    "a chunk": Stage(Answers, "piece", 1, streamed=(True,)),  # one may hold all tokens, where the client is slow
    "the last chunk": Stage(Answers, "last", 1, streamed=(True,)),
    "the usage": Stage(Answers, "usage", 1, streamed=(True,)),
    "the whole answer": Stage(Answers, "whole", 1, streamed=(False,)),
    "the report": Stage(Generation, "report", 1),
    "the count of tokens": Stage(Choices, "completion_tokens", 1),
}


@dataclass(frozen=True)
class Setup:
    client: TestClient
    service: Service
    metrics: PrometheusMetrics

    def errors(self) -> float:
        return scraped(self.metrics)['vllm:request_success_total{finished_reason="error"}']


@pytest.fixture(scope="module")
def setup(model_dir: Path) -> Iterator[Setup]:
    metrics = PrometheusMetrics(model_name="sotu")
    engine = tiny_engine(tiny_runtime(tiny_model()), observers=[metrics])
    engine.start()
    service = Service(engine=engine, tokenizer=load_tokenizer(model_dir), name="tiny", created=1)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield Setup(client, service, metrics)
    engine.stop()


def breaking(stage: Stage, error: Exception) -> Any:
    """In the place of what the stage names: works, until the call at which it raises."""
    whole = getattr(stage.owner, stage.name)
    left = [stage.call]

    def broken(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise error
        return whole.fget(*given) if isinstance(whole, property) else whole(*given, **named)

    return property(broken) if isinstance(whole, property) else broken


def owners(stage: Stage) -> list[type]:
    """An abstract class's children may have a method of their own."""
    return [
        owner
        for owner in (stage.owner, *stage.owner.__subclasses__())
        if owner is stage.owner or stage.name in vars(owner)
    ]


@pytest.mark.parametrize(
    ("stage", "stream", "path", "n", "error"),
    [
        pytest.param(stage, stream, path, n, error, id=f"{name}-{'streamed' if stream else 'whole'}-{path}-{n}")
        for name, stage in STAGES.items()
        for stream in stage.streamed
        for path, n, error in (
            ("completions", 3, ZeroDivisionError("no luck")),
            ("chat/completions", 1, LtsRayError("bad luck")),
        )
        if path in stage.paths
    ],
)
def test_a_fault_is_an_error_to_the_client_and_counted_and_frees_all(
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage,
    stream: bool,
    path: str,
    n: int,
    error: Exception,
) -> None:
    before = setup.errors()
    body = {"model": "tiny", **ANY, **PATHS[path], "n": n, "stream": stream}
    body |= {"stream_options": {"include_usage": stage.name in ("usage", "completion_tokens")}} if stream else {}
    with monkeypatch.context() as patch:
        for owner in owners(stage):
            patch.setattr(owner, stage.name, breaking(replace(stage, owner=owner), error))
        response = setup.client.post(f"/v1/{path}", json=body)
    if stream:
        assert response.status_code == 200
        *events, last, done = [each.removeprefix("data: ") for each in response.text.split("\n\n") if each]
        assert done == "[DONE]"
        found = json.loads(last)
        assert all("error" not in json.loads(event) for event in events)
    else:
        assert response.status_code >= 500
        found = response.json()
    assert found["error"].keys() == {"message", "type", "param", "code"}
    assert found["error"]["type"] == "server_error"
    assert "luck" not in found["error"]["message"] or stage.name in ("run", "choose")
    assert setup.service.engine.load() == Load()
    while setup.errors() == before:  # the engine's thread counts
        sleep(0.001)
    again = setup.client.post(f"/v1/{path}", json=body | {"stream": False, "stream_options": None})
    assert again.status_code == 200
    assert again.json()["usage"]["completion_tokens"] == 6 * n
    assert setup.service.engine.load() == Load()


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize(
    "stage", [Stage(ResponseText, "__init__"), Stage(Sampler, "__init__")], ids=["text", "sampler"]
)
def test_a_fault_while_choices_are_queued_leaves_none_of_them(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, stage: Stage, call: int
) -> None:
    body = {"model": "tiny", **ANY, **PATHS["completions"], "n": 3}
    with monkeypatch.context() as patch:
        patch.setattr(stage.owner, stage.name, breaking(replace(stage, call=call), ZeroDivisionError("no luck")))
        response = setup.client.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    assert setup.service.engine.load() == Load()
