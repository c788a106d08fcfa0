"""The application behind Ray's proxy: once with two replicas, once with one."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import sleep

import httpx
import openai
import pytest
from ray import serve

from lts_ray.models.matformer.hugging_face.checkpoint import save_checkpoint
from lts_ray.models.matformer.matformer import MatFormer
from serve.app import application
from serve.serve_args import ServeArgs
from tests.cluster.serve.conftest import Running

CONTEXT = 60_000
WAIT_S = 600.0
"""For an answer."""


@pytest.fixture(scope="module")
def long_model_dir(model_dir: Path, universal: MatFormer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a context so long that a whole response takes minutes."""
    folder = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(model_dir, folder)
    model = MatFormer(replace(universal.config, context_length=CONTEXT))
    model.load_state_dict(universal.state_dict())
    save_checkpoint(model, folder)
    return folder


@pytest.fixture(scope="module")
def url(ray_serve: Running, long_model_dir: Path) -> Iterator[str]:
    applications = {"two": 2, "one": 1}
    for name, num_replicas in applications.items():
        args = ServeArgs(model=long_model_dir, name="tiny", num_replicas=num_replicas)
        serve.run(application(args), name=name, route_prefix=f"/{name}")
    yield ray_serve.proxy
    for name in applications:
        serve.delete(name)


@pytest.fixture(scope="module")
def official(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/two/v1", api_key="none", max_retries=0) as client:
        yield client


def test_two_replicas_run(url: str) -> None:
    assert serve.status().applications["two"].deployments["elastic"].replica_states == {"RUNNING": 2}


def test_both_replicas_give_the_same_text_whole_and_streamed(official: openai.OpenAI) -> None:
    def ask(index: int) -> str:
        if index % 2:
            stream = official.completions.create(
                model="tiny:M", prompt="the nation", temperature=0, max_tokens=12, stream=True
            )
            return "".join(chunk.choices[0].text for chunk in stream)
        whole = official.completions.create(model="tiny:M", prompt="the nation", temperature=0, max_tokens=12)
        return whole.choices[0].text

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1


def test_the_metrics_of_two_replicas_are_one_page_whichever_answers(url: str) -> None:
    """Scrapes reach one replica or the other: none goes back behind the one before, and in the end all say the same."""

    def ended() -> float:
        text = httpx.get(f"{url}/two/metrics", timeout=WAIT_S).text
        (line,) = (line for line in text.splitlines() if line.startswith("vllm:request_success") and '"length"' in line)
        return float(line.split()[-1])

    before = ended()
    body = {"model": "tiny", "prompt": "the", "max_tokens": 2, "ignore_eos": True}
    with ThreadPoolExecutor(7) as pool:
        for answer in pool.map(lambda _: httpx.post(f"{url}/two/v1/completions", json=body, timeout=WAIT_S), range(7)):
            assert answer.status_code == 200
    seen = [before]
    while seen[-1] < before + 7 or len(set(seen[-8:])) > 1:
        seen.append(ended())
        assert seen[-1] >= seen[-2]


def test_a_budget_goes_through_the_proxy_and_the_answer_says_how_it_went(official: openai.OpenAI) -> None:
    answer = official.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "the war"}],
        max_tokens=4,
        extra_body={"latency_budget_ms": 1e6},
        extra_headers={"x-slo-tpot-ms": "1e5"},
    )
    assert answer.model_extra is not None
    assert answer.model_extra["lts"]["budget_ms"] == {"tpot": 1e5, "e2e": 1e6}
    assert answer.model_extra["lts"]["budget_met"] is True
    with pytest.raises(openai.RateLimitError) as refusal:
        official.completions.create(
            model="tiny", prompt="a", extra_headers={"x-slo-strict": "true", "x-slo-ttft-ms": "0.001"}
        )
    assert int(refusal.value.response.headers["retry-after"]) >= 1


def test_errors_keep_their_shape_and_the_request_id_comes_back_once(url: str) -> None:
    response = httpx.post(f"{url}/two/v1/completions", content=b"{", headers={"X-Request-Id": "mine"}, timeout=WAIT_S)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("the body is not valid JSON")
    assert response.headers.get_list("x-request-id") == ["mine"]


def test_an_offer_of_an_upgrade_leaves_the_body_alone(url: str) -> None:
    """As Java's HttpClient and `curl --http2` send it; here the proxy reads the body, not our server."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    body = {"model": "tiny", "prompt": "the nation", "max_tokens": 2}
    with httpx.Client(timeout=WAIT_S) as client:  # two on one connection
        answers = [client.post(f"{url}/{name}/v1/completions", json=body, headers=headers) for name in ("one", "two")]
    assert [answer.status_code for answer in answers] == [200, 200]


def test_bodies_that_do_not_come_take_no_place(url: str) -> None:
    """As many as rows, queue and what Ray once let through beside them."""
    address, body = httpx.URL(url), {"model": "tiny", "prompt": "the nation", "max_tokens": 2}
    half = b"POST /one/v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
    with ExitStack() as opened:
        for _ in range(120):
            connection = opened.enter_context(socket.create_connection((address.host, address.port or 80)))
            connection.sendall(half)
        for _ in range(5):
            assert httpx.get(f"{url}/one/health", timeout=WAIT_S).json()["status"] == "ok"
        assert httpx.get(f"{url}/one/metrics", timeout=WAIT_S).status_code == 200
        assert httpx.post(f"{url}/one/v1/completions", json=body, timeout=WAIT_S).status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_goes_away_frees_its_row(url: str, stream: bool) -> None:
    """The response would run for minutes: the one replica is idle again only if it learns that nobody waits."""

    def running() -> int:
        count: int = httpx.get(f"{url}/one/health", timeout=WAIT_S).json()["running"]
        return count

    body = {"model": "tiny", "prompt": "the", "temperature": 0, "max_tokens": CONTEXT - 100, "stream": stream}
    content = json.dumps(body).encode()
    head = f"POST /one/v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(head + content)
        while running() == 0:
            sleep(0.02)
    while running():
        sleep(0.02)
