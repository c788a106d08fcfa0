"""HAProxy, as Ray Serve starts and configures it, in front of a server; and no Ray."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest
from ray.serve._private import haproxy
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.http.service import Service
from serve.ray_proxies import mend
from tests.free_port import free_port
from tests.serve.conftest import Gate, Server, wait_for


@pytest.fixture
def proxied(server: Server, tmp_path: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(haproxy, "HAPROXY_CONFIG_TEMPLATE", haproxy.HAPROXY_CONFIG_TEMPLATE)  # restored
        patches.setattr(HttpToolsProtocol, "connection_made", HttpToolsProtocol.connection_made)
        mend()
        front = free_port()
        config = haproxy.HAProxyConfig(
            socket_path=str(tmp_path / "admin.sock"),
            metrics_port=free_port(),
            stats_port=free_port(),
            http_options=haproxy.HTTPOptions(host="127.0.0.1", port=front),
            server_state_base=str(tmp_path),
            server_state_file=str(tmp_path / "state"),
            metrics_enabled=False,
        )
        backend = haproxy.BackendConfig(
            name="b",
            path_prefix="/",
            app_name="b",
            servers=[haproxy.ServerConfig(name="s", host=server.host, port=server.port)],
            http_health_check_path="/health",
        )
        api = haproxy.HAProxyApi(config, {"b": backend}, config_file_path=str(tmp_path / "haproxy.cfg"))
        api._generate_config_file_internal()
    process = subprocess.Popen([haproxy.get_haproxy_binary(), "-f", str(tmp_path / "haproxy.cfg")])
    try:
        while True:
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", front)).close()
                break
            except OSError:
                sleep(0.01)
        yield Server("127.0.0.1", front)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_whose_body_came_after_its_headers_is_missed(
    service: Service, proxied: Server, gate: Gate, stream: bool
) -> None:
    body = json.dumps({"model": "tiny", "prompt": "the", "max_tokens": 60, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((proxied.host, proxied.port)) as connection:
        connection.sendall(head)
        sleep(0.1)
        connection.sendall(body)
        wait_for(lambda: len(service.engine._active) == 1)
        gate.reached.wait()
    wait_for(lambda: len(service.engine._active.cancelled) == 1)
    gate.opened.set()
    wait_for(lambda: service.engine.counts() == (0, 0))
