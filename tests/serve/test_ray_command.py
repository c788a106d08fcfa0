"""What `lts-ray serve` is given is checked before Ray has it: a typo is one line, not a command that runs on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml

from lts_ray.errors import LtsRayError
from serve import ray_command
from serve.ray_command import command
from tests.conftest import ROOT
from tests.free_port import free_port


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Free, and no cluster to join."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_command, "canonicalize_bootstrap_address", lambda _: None)
    return free_port()


def configuration(model: Path, port: int, **changed: Any) -> dict[str, Any]:
    application = {
        "name": "lts-ray",
        "route_prefix": "/",
        "import_path": "serve.app:build",
        "args": {"model": str(model)},
    }
    return {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application | changed]}


def test_what_is_right_becomes_rays_command_with_our_package_first(model_dir: Path, port: int, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(configuration(model_dir, port)))
    assert command([str(file)]) == ["run", "--app-dir", str(ROOT), str(file)]
    assert command([f"model={model_dir}", "threads=1"])[-3:] == ["serve.app:build", f"model={model_dir}", "threads=1"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"args": {"modle": "x"}}, "unknown keys modle; known: "),
        ({"args": {"threads": "many"}}, "threads must be a whole number; got 'many'"),
        ({"args": {"model": "/nowhere"}}, "/nowhere is not a folder"),
        ({"args": {"policy": "best"}}, "unknown policy 'best'"),
        ({"args": {"kinds": "a,b"}}, "kinds=a,b needs frontier=FILE"),
        ({"args": {"fleet": "/nowhere/fleet.yaml"}}, "fleet file /nowhere/fleet.yaml does not exist"),
        ({"args": ["model"]}, "applications.0.args: Input should be a valid dictionary"),
        ({"import_pat": "x"}, "applications[0] has unknown keys import_pat; known: "),
        ({"import_path": "serve.ap:build"}, "import_path must be serve.app:build; got 'serve.ap:build'"),
        ({"route_prefix": "no-slash"}, "route_prefix must begin with a slash; got 'no-slash'"),
        ({"deployments": [{"name": "elastic", "num_replicas": -1}]}, "num_replicas"),
        ({"deployments": [{"name": "elastic", "num_replica": 1}]}, "deployments[0] has unknown keys num_replica"),
    ],
    ids=str,
)
def test_a_typo_in_the_file_is_one_line(
    changed: dict[str, Any], message: str, model_dir: Path, port: int, tmp_path: Path
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(configuration(model_dir, port, **changed)))
    with pytest.raises(LtsRayError) as refused:
        command([str(file)])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[", "- a", "applications: []", "applications: 3", "aplications: []"])
def test_a_file_that_is_no_configuration_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(LtsRayError, match=r"serve configuration .*serve\.yaml") as refused:
        command([str(file)])
    assert "\n" not in str(refused.value)


def test_a_port_in_use_is_one_line(model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        file.write_text(yaml.safe_dump(configuration(model_dir, number)))
        with pytest.raises(LtsRayError, match=f"port {number} of 127.0.0.1 cannot be served on"):
            command([str(file)])


def test_a_gpu_that_this_machine_lacks_is_said_before_a_ray_of_its_own_is_started(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"model={model_dir}", "device=cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LtsRayError, match="device is cuda, but torch finds no CUDA GPU on this machine"):
        command(words)
    monkeypatch.setattr(
        ray_command, "canonicalize_bootstrap_address", lambda _: "10.0.0.1:6379"
    )  # its nodes may have one
    assert command(words)[-2:] == words


def test_words_that_are_no_arguments_are_refused(tmp_path: Path) -> None:
    for words in (["a.yaml", "threads=1"], ["a.yaml", "b.yaml"]):
        with pytest.raises(LtsRayError, match="give one YAML file, or only key=value"):
            command(words)
    with pytest.raises(LtsRayError, match="does not exist"):
        command([str(tmp_path / "none.yaml")])


@pytest.mark.parametrize("name", ["serve.py", "lts_ray.py", "torch.py", "serve/__init__.py"])
def test_a_file_in_the_current_folder_that_is_in_the_way_is_named(
    name: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray puts the folder on its workers' path, before ours."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LtsRayError, match=f"{name} is in the way"):
        command([f"model={model_dir}"])
    (tmp_path / name).unlink()
    assert command([f"model={model_dir}"])


def test_the_check_itself_finds_our_package_beside_a_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text("raise SystemExit('in the way')")
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "lts_ray.cli.main", "serve"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"lts-ray: {tmp_path / 'serve.py'} is in the way")
    assert ended.stderr.count("\n") == 1


def test_sigterm_ends_it_as_ctrl_c_does_and_a_second_one_breaks_nothing_off(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within Ray's command, where its own handler has been set by connecting."""
    seen: list[str] = []

    def run(args: list[str], prog_name: str) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append(args[0])

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["serve", f"model={model_dir}"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(ray, "init", lambda **options: signal.signal(signal.SIGTERM, lambda *_: os.abort()))
    monkeypatch.setattr(ray_command.scripts.cli, "main", run)
    try:
        ray_command.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["run"]
