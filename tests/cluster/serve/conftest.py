"""One local Ray with Serve behind HAProxy and its dashboard for all tests here; a replica takes seconds to come up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import ray
from ray import serve

from lts_ray.ray_haproxy import haproxy_here
from lts_ray.ray_session import NICENESS
from tests.free_port import free_port


@dataclass(frozen=True)
class Running:
    proxy: str
    dashboard: str


@pytest.fixture(scope="package")
def ray_serve() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv(NICENESS, "0")  # what runs beside it may be nice
        port = free_port()
        with haproxy_here():
            context = ray.init(address="local", num_cpus=8, include_dashboard=True, log_to_driver=False)
            try:
                serve.start(http_options={"host": "127.0.0.1", "port": port})
                yield Running(f"http://127.0.0.1:{port}", f"http://{context.dashboard_url}")
            finally:
                serve.shutdown()
                ray.shutdown()
