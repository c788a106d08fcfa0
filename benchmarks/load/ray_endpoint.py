"""Endpoints of one's own: Ray Serve on this machine, on a port that is free, for as long as they are needed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve

from benchmarks.load.step_ratios import StepRatios
from lts_ray.ray_haproxy import haproxy_here
from lts_ray.ray_session import NICENESS
from lts_ray.runtime.step_costs import StepCosts
from serve.app import application
from serve.engine.engine import Engine
from serve.serve_args import ServeArgs


@dataclass(frozen=True)
class Endpoint:
    url: str
    pid: int | None
    """Of the replica, whose memory counts; None: it is not known."""
    replica: Any = None
    """Ray's handle of it."""

    def costs(self) -> StepCosts:
        """Of its steps, as it has learned them so far."""
        costs: StepCosts = ray.get(self.replica.__ray_call__.remote(_costs))
        return costs

    def step_ratios(self, costs: StepCosts) -> list[float]:
        """What its steps took over these costs, those since the last call; the first one begins to note them."""
        ratios: list[float] = ray.get(self.replica.__ray_call__.remote(_step_ratios, costs))
        return ratios


@contextmanager
def own_endpoint(args: ServeArgs) -> Iterator[Endpoint]:
    with own_endpoints({"": args}) as endpoints:
        yield endpoints[""]


@contextmanager
def own_endpoints(args: Mapping[str, ServeArgs]) -> Iterator[Mapping[str, Endpoint]]:
    """All on one cluster and one port; the names are the first parts of their paths. They share the cores there are."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ.setdefault(NICENESS, "0")
    cpus = None if len(args) == 1 else 1 + sum(each.threads or 1 for each in args.values())
    with haproxy_here():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            for name, each in args.items():
                serve.run(application(each), name=name or "default", route_prefix=f"/{name}")
            url = f"http://127.0.0.1:{port}/"
            yield {name: _endpoint(f"{url}{name}".rstrip("/"), name or "default") for name in args}
        finally:
            serve.shutdown()
            ray.shutdown()


def _endpoint(url: str, application: str) -> Endpoint:
    actors = ray.util.list_named_actors(all_namespaces=True)
    named = next(actor for actor in actors if actor["name"].startswith(f"SERVE_REPLICA::{application}#"))
    replica = ray.get_actor(named["name"], named["namespace"])
    return Endpoint(url, ray.get(replica.__ray_call__.remote(_pid)), replica)


# In the replica's process, which Ray gives no other way into.


def _engine() -> Engine:
    engine: Engine = next(vars(each)["_target"] for each in threading.enumerate() if each.name == "engine").__self__
    return engine


def _pid(replica: object) -> int:
    return os.getpid()


def _costs(replica: object) -> StepCosts:
    return _engine().costs


def _step_ratios(replica: object, costs: StepCosts) -> list[float]:
    engine = _engine()
    known = [each for each in engine._observers if isinstance(each, StepRatios)]
    if not known:
        engine._observers = (*engine._observers, StepRatios(engine))
    return known[0].take(costs) if known else []
