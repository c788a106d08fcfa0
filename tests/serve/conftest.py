"""A service over the tiny checkpoint, without Ray: as an ASGI app, and as a real server that sockets reach."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import sleep

import openai
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from starlette.types import ASGIApp

from lts_ray.models.matformer.hugging_face.checkpoint import load_checkpoint
from lts_ray.runtime.build_runtime import build_runtime
from lts_ray.runtime.segment import Segment
from lts_ray.text.tokenizer import load_tokenizer
from serve.engine.engine import Engine
from serve.engine.learned_times import LearnedTimes
from serve.http.api import create_app
from serve.http.service import Service
from serve.policies.capacity import Capacity
from serve.policies.menu import menu_of_granularities
from serve.policies.named_policies import policy_named
from tests.serve.models import COSTS


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Toy matrices gain nothing from more, and on a busy machine threads that wait for each other cost seconds."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def service(model_dir: Path) -> Iterator[Service]:
    checkpoint, tokenizer = load_checkpoint(model_dir), load_tokenizer(model_dir)
    menu = menu_of_granularities(checkpoint.model.config, checkpoint.validation_loss)
    engine = Engine(
        build_runtime(checkpoint.model, n_blocks=16, threads=1),
        menu=menu,
        times=LearnedTimes(COSTS, attainment=None),
        policy=policy_named("deadline"),
        eos_ids=tokenizer.eos_ids,
        capacity=Capacity(slots=2, max_queue=4),
    )
    engine.start()
    yield Service(engine=engine, tokenizer=tokenizer, name="tiny", created=1_700_000_000)
    engine.stop()


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


@dataclass(frozen=True)
class Server:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextmanager
def running_app(app: ASGIApp, *, http: str = "auto") -> Iterator[Server]:
    """uvicorn in a thread, on a port that the system chooses."""
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", http=http))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        sleep(0.01)
    host, port = running.servers[0].sockets[0].getsockname()[:2]
    try:
        yield Server(host, port)
    finally:
        running.should_exit = running.force_exit = True
        thread.join()


@contextmanager
def running_server(service: Service, *, http: str = "auto") -> Iterator[Server]:
    with running_app(create_app(service), http=http) as server:
        yield server


@pytest.fixture(scope="session")
def server(service: Service) -> Iterator[Server]:
    with running_server(service) as server:
        yield server


@pytest.fixture(scope="session")
def official(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


class Gate:
    """Steps wait until it is opened: what is asked meanwhile is in the engine, however fast the machine is."""

    def __init__(self, run: Callable[[Sequence[Segment]], torch.Tensor]) -> None:
        self.reached, self.opened, self._run = Event(), Event(), run

    def __call__(self, segments: Sequence[Segment]) -> torch.Tensor:
        self.reached.set()
        self.opened.wait()
        return self._run(segments)


@pytest.fixture
def gate(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(service.engine._runtime.run)
    monkeypatch.setattr(service.engine._runtime, "run", gate)
    yield gate
    gate.opened.set()  # a test that failed before it did must not hang the others
    wait_for(lambda: service.engine.counts() == (0, 0))


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        sleep(0.005)
