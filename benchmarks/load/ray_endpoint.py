"""An endpoint of one's own: Ray Serve on this machine, on a port that is free, for as long as it is needed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray import serve

from serve.app import application
from serve.serve_args import ServeArgs


@dataclass(frozen=True)
class Endpoint:
    url: str
    pid: int | None
    """Of the replica, whose memory counts; None: it is not known."""


@contextmanager
def own_endpoint(args: ServeArgs) -> Iterator[Endpoint]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(args))
        replicas = [
            actor
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["name"].startswith("SERVE_REPLICA")
        ]
        replica = ray.get_actor(replicas[0]["name"], replicas[0]["namespace"])
        yield Endpoint(f"http://127.0.0.1:{port}", ray.get(replica.__ray_call__.remote(_pid)))
    finally:
        serve.shutdown()
        ray.shutdown()


def _pid(replica: object) -> int:
    return os.getpid()
