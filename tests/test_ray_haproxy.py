"""HAProxy in front of a Ray of one's own: what the environment says of it, and what where it cannot be."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from ray.serve._private import haproxy

from lts_ray.ray_haproxy import BINARY, ENABLE_HAPROXY, FILES, PORTS, haproxy_here


def test_a_ray_of_ones_own_has_haproxy_in_front_with_its_pages_for_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_SERVE_")]:
        monkeypatch.delenv(name)
    with socket.create_server(("", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setitem(PORTS, "HAPROXY_STATS_PORT", taken)
        with haproxy_here():
            ports = {os.environ[f"RAY_SERVE_{name}"] for name in PORTS}
            assert os.environ[ENABLE_HAPROXY] == "1"
            assert len(ports) == 3
            assert str(taken) not in ports
            folder = Path(os.environ[BINARY]).parent
            assert len(os.environ["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"]) + 1 + 56 <= 97
            assert folder.stat().st_mode & 0o777 == 0o700
            assert all(Path(os.environ[f"RAY_SERVE_HAPROXY_{name}"]).is_relative_to(folder) for name in FILES)
            config = tmp_path / "cfg"
            config.write_text("listen stats\n  bind *:1234\nlisten b\n  bind :1235\n")
            subprocess.run([os.environ[BINARY], "-c", "-f", config], check=False, capture_output=True)
            assert config.read_text() == "listen stats\n  bind 127.0.0.1:1234\nlisten b\n  bind 127.0.0.1:1235\n"
    assert not folder.exists()
    assert BINARY not in os.environ


def test_rays_proxy_stays_where_it_is_asked_for_or_haproxy_does_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ENABLE_HAPROXY, "0")
    before = dict(os.environ)
    with haproxy_here():
        assert dict(os.environ) == before
    monkeypatch.delenv(ENABLE_HAPROXY)
    assert capsys.readouterr().err == ""
    for binary in ("/nowhere/haproxy", "/bin/false"):
        monkeypatch.setattr(haproxy, "get_haproxy_binary", lambda found=binary: found)
        with haproxy_here():
            assert ENABLE_HAPROXY not in os.environ
        assert capsys.readouterr().err.startswith("warning: Ray Serve's own proxy stands in front, which takes longer:")
